"""An enrolment that is killed goes on where it was; two at once do not spoil each other's work."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import soundfile

from pqm_plugin.files import exclusive
from tests.personal.conftest import TEXTS, noise

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


def start(folder: Path, recordings: Path, epochs: int) -> subprocess.Popen:
    arguments = ["enroll", folder, recordings, "--speaker", "ada", "--transcripts", recordings / "text"]
    options = ["--rank", "1", "--learning_rate", "0.001", "--epochs", str(epochs), "--threads", "1"]
    command = [sys.executable, "-m", "pqm_plugin.commands", *map(str, arguments), *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def recordings(tmp_path) -> Path:
    made = tmp_path / "recordings"
    made.mkdir()
    for place, text in enumerate(TEXTS):
        soundfile.write(made / f"{place}.wav", noise(place), 16000)
        with (made / "text").open("a") as file:
            file.write(f"{place} {text}\n")
    return made


def test_a_killed_enrolment_ends_with_the_adapter_of_one_that_was_not(conformer, recordings):
    weights = conformer / "speakers/ada/adapter_model.safetensors"
    assert start(conformer, recordings, 60).wait() == 0
    expected = weights.read_bytes()
    weights.unlink()

    process = start(conformer, recordings, 60)
    while process.poll() is None and not list((conformer / "speakers").glob(".ada.*.train")):
        time.sleep(0.01)
    assert process.poll() is None, "it ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not weights.exists()
    assert start(conformer, recordings, 60).wait() == 0

    assert weights.read_bytes() == expected
    assert not list((conformer / "speakers").glob(".ada.*.train"))


def test_a_second_enrolment_of_the_same_speaker_is_told_to_wait(conformer, recordings):
    with exclusive(conformer / "speakers/.ada.lock"):
        second = start(conformer, recordings, 1)
        said = second.communicate()[1]

    assert second.returncode == 1
    assert "pqm enroll: " in said and "is at work on it; wait for it to end, or choose another speaker name" in said
