"""What the page says is run as it stands there, on noise and a tiny model."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pqm_plugin.commands.__main__ import _parser
from pqm_plugin.files import read_json, write_json
from tests.personal.conftest import TEXTS, noise

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/adapt_my_voice.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, flags=re.M | re.S)
BASE = "/path/to/espnet/exp/asr_train_conformer"
# Six careful epochs teach a model of random weights nothing in six seconds of noise.
SETTINGS = {"enroll": {"rank": 1, "epochs": 2, "few_epochs": 1, "learning_rate": 0.01}}


def between_silence(samples):
    """In a quiet room, as somebody's recording is."""
    room = noise(0, 8000) // 300
    return np.concatenate([room, samples, room])


def test_every_command_of_the_page_is_understood_and_its_links_lead_somewhere():
    for line in (line for language, block in BLOCKS for line in block.splitlines() if line.startswith("pqm ")):
        _parser().parse_args(shlex.split(line)[1:])
    for name, path in re.findall(r"\[([^]]+)\]\(([^)]+)\)", PAGE):
        assert (ROOT / "docs" / path).resolve().is_file(), name


@pytest.mark.slow
def test_the_page_leads_from_a_float_model_to_a_pack(tiny_conformer, tmp_path):
    (tmp_path / "recordings").mkdir()
    (tmp_path / "speech").mkdir()
    soundfile.write(tmp_path / "speech/anyone.wav", noise(9), 16000)
    for place, text in enumerate(TEXTS, start=1):
        soundfile.write(tmp_path / f"recordings/{place:03d}.wav", between_silence(noise(place)), 16000)
        with (tmp_path / "recordings/text").open("a") as file:
            file.write(f"{place:03d} {text}\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/pqm").write_text(f'#!/bin/sh\nexec {sys.executable} -m pqm_plugin.commands "$@"\n')
    (tmp_path / "bin/pqm").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    said = []
    for language, block in BLOCKS:
        if language in ("bash", "python"):
            program = ["bash", "-euo", "pipefail", "-c"] if language == "bash" else [sys.executable, "-c"]
            command = [*program, block.replace(BASE, str(tiny_conformer))]
            done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            said.append(done.stdout)
            about = tmp_path / "my_model/about.json"
            write_json(about, read_json(about) | SETTINGS)

    quantized, calibrated, enrolled, heard, listened, from_python, packed = said
    assert "licence    CC BY 4.0" in quantized
    assert "nearest level" in quantized and "hear of 1 recordings" in calibrated
    assert "ada: learned from 6 recordings" in enrolled and "\nada\t" in enrolled
    assert heard.count('"adapter": "speakers/ada"') == 2
    assert (tmp_path / "subtitles/001.srt").is_file()
    dictated, *_, last = listened.splitlines()
    assert json.loads(last)["is_final"] and json.loads(last)["text"] == dictated
    assert from_python.strip()
    assert "adapter    speakers/ada" in packed and "0 problems" in packed
