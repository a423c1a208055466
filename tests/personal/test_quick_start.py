"""A model that is used loads the libraries that its family needs, and no others."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
import numpy as np
import pqm_plugin
model = pqm_plugin.load(sys.argv[1])
model.transcribe(np.zeros(16000, np.float32))
for name in sys.argv[2:]:
    assert name not in sys.modules, name
"""


def uses_none_of(folder: Path, *libraries: str) -> None:
    """Open the model in a process of its own, let it hear, and see what is loaded."""
    command = [sys.executable, "-c", PROGRAM, str(folder), *libraries]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-300:]


@pytest.mark.slow
def test_a_conformer_is_heard_without_transformers_peft_and_the_compiler(conformer):
    uses_none_of(conformer, "transformers", "peft", "torch._dynamo")


@pytest.mark.slow
def test_a_whisper_is_heard_without_espnet_and_peft(whisper):
    uses_none_of(whisper, "espnet2", "peft")
