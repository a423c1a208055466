"""`pqm doctor`: what is there, in about ten lines, and what to do."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from pqm_plugin.personal.installation import EXTRAS, judged_extras, judged_libraries

ROOT = Path(__file__).resolve().parents[2]
DECLARED = [
    Requirement(line)
    for line in ("jiwer<5,>=4.0", "av<20,>=19", 'gradio<7,>=6.31; extra == "serve"', 'wyoming<2; extra == "wyoming"')
]


def doctor(**environment: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([environment.pop("PYTHONPATH", ""), str(ROOT)]).strip(os.pathsep)
    return subprocess.run(
        [sys.executable, "-m", "pqm_plugin.commands", "doctor"],
        capture_output=True,
        text=True,
        env=os.environ | environment | {"PYTHONPATH": paths},
        check=False,
    )


@pytest.mark.slow
def test_about_ten_lines_say_what_is_there_and_what_comes_next():
    done = doctor()

    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(lines) <= 12
    for what in ("Python", "machine", "libraries", "CUDA", "extras", "audio", "espeak-ng", "cache"):
        assert sum(what in line[:15] for line in lines) == 1, what
    assert re.search(r"\d+ cores, \d+\.\d GB of memory free", done.stdout)
    assert lines[-1] == "All that is needed is there. Next: pqm quantize openai/whisper-base.en my_model"
    assert done.stderr == ""


@pytest.mark.slow
def test_a_version_out_of_bounds_and_a_cache_that_cannot_be_written_are_said_with_the_remedy(tmp_path):
    older = tmp_path / "jiwer-3.0.5.dist-info"
    older.mkdir()
    (older / "METADATA").write_text("Metadata-Version: 2.1\nName: jiwer\nVersion: 3.0.5\n")
    (tmp_path / "file").write_text("")

    done = doctor(PYTHONPATH=str(tmp_path), HF_HOME=str(tmp_path / "file" / "hub"))

    assert done.returncode == 1
    assert "!! libraries   jiwer 3.0.5 is not <5,>=4.0 → pip install 'jiwer<5,>=4.0'" in done.stdout
    assert re.search(r"^-- cache .* cannot be written → set HF_HOME", done.stdout, re.M)
    assert done.stdout.splitlines()[-1] == "Mend first what is marked !!: libraries"


def test_what_is_missing_is_named_and_a_library_of_an_extra_that_nobody_installed_is_not():
    there = {"av": "19.1"}

    found = judged_libraries(DECLARED, there.get)

    assert found.line() == "!! libraries   jiwer is missing → pip install 'jiwer<5,>=4.0'"


def test_a_library_of_an_installed_extra_is_held_to_its_bound_too():
    there = {"av": "19.1", "jiwer": "4.0", "gradio": "5.0"}

    assert "gradio 5.0 is not <7,>=6.31" in judged_libraries(DECLARED, there.get).line()


def test_extras_that_are_not_installed_are_named_with_what_they_are_for():
    found = judged_extras(DECLARED, {"gradio": "6.31"}.get)

    assert found.found.startswith("serve; not installed: train (packing models and training adapters, with torch), ")
    assert "wyoming (voice assistants)" in found.found
    assert not found.needed


def test_every_extra_of_the_package_has_its_use_said():
    declared = re.findall(r'^    "([\w-]+)": \[', (ROOT / "setup.py").read_text(), re.M)

    assert set(EXTRAS) == set(declared)


def test_the_page_about_installing_has_every_extra_with_its_use():
    page = (ROOT / "docs/install.md").read_text(encoding="utf-8").partition("## Disk")[0]

    assert dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", page, re.M)) == EXTRAS
