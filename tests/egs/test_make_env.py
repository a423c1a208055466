"""`make env`: what it asks pip for."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = """#!/usr/bin/env bash
printf '%s\\n' "$*" >> calls
"""


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A folder with setup.py, the script, and a Python in `.venv` that writes down what it is asked for."""
    for name in ("setup.py", "tools/make_env.sh"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o755)
    return tmp_path


def asked(checkout: Path, **environment: str) -> list[str]:
    """The calls of Python, a line each."""
    kept = {name: value for name, value in os.environ.items() if name != "TORCH_INDEX"}
    subprocess.run(["tools/make_env.sh"], cwd=checkout, env=kept | environment, check=True)
    calls = checkout / "calls"
    return calls.read_text().splitlines() if calls.exists() else []


def test_torch_comes_first_from_the_index_that_is_named_within_the_bounds_of_setup(checkout):
    calls = asked(checkout, TORCH_INDEX="https://index.example/cpu")

    [place] = [place for place, call in enumerate(calls) if "index.example" in call]
    assert "--index-url https://index.example/cpu torch>=2.11,!=2.12.*,<2.15 torchaudio>=2.11" in calls[place]
    assert "--editable" in calls[place + 1] and "index.example" not in calls[place + 1]


def test_without_one_nothing_but_the_package_is_asked_for_and_a_second_call_asks_for_nothing(checkout):
    first = asked(checkout)
    second = asked(checkout)

    assert not any("--index-url" in call for call in first)
    assert sum("--editable" in call for call in first) == 1
    assert second == first  # the file of calls has not grown
