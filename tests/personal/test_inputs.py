"""Recordings as they should not be: each is refused by name, or used with a word about it."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

import pqm_plugin
from pqm_plugin.commands.__main__ import main
from pqm_plugin.errors import PqmError
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.personal.model import PersonalModel
from pqm_plugin.personal.options import EnrollOptions
from pqm_plugin.processes import peak_rss_of
from tests.faults import in_child
from tests.personal.conftest import TEXTS, noise

pytestmark = pytest.mark.slow
RATE = 16000
QUICK = SearchOptions(beam_size=1, ctc_weight=0.0, max_length_ratio=0.01)


def corrupt(path: Path) -> None:
    soundfile.write(path, noise(0, 10 * RATE), RATE)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = bytes(2000)
    path.write_bytes(data)


def truncated(path: Path) -> None:
    soundfile.write(path, noise(0), RATE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.touch()


def without_samples(path: Path) -> None:
    soundfile.write(path, np.zeros(0, np.int16), RATE, format="WAV")


def no_audio(path: Path) -> None:
    path.write_text("<html>not found</html>" * 50)


def not_a_number(path: Path) -> None:
    soundfile.write(path, np.array([0.0, np.inf] * 8000), RATE, subtype="FLOAT", format="WAV")


REFUSED = {
    corrupt: "cut off or damaged",
    truncated: "cut off or damaged",
    empty: "is empty (0 bytes)",
    without_samples: "holds no samples",
    no_audio: "is not audio",
    not_a_number: "not numbers",
}


@pytest.mark.parametrize(("make", "why"), REFUSED.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_recording_that_is_no_whole_sound_is_refused_by_name_and_teaches_nothing(
    conformer, tmp_path, capsys, make: Callable[[Path], None], why: str
):
    bad, good = tmp_path / "bad.flac", tmp_path / "good.flac"
    make(bad)
    soundfile.write(good, noise(1), RATE)

    assert main(["transcribe", str(conformer), str(bad), str(good)]) == 1

    said = capsys.readouterr()
    assert said.err.count("pqm transcribe: ") == 1 and str(bad) in said.err and why in said.err
    assert f"{good}\t" in said.out
    with pytest.raises(PqmError, match=str(bad)):
        pqm_plugin.load(conformer).enroll("ada", [bad, good], TEXTS[:2])
    assert not (conformer / "speakers/ada").exists()


def test_a_silent_recording_has_no_words_and_is_not_learned_from(conformer, tmp_path, caplog):
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    model, options = pqm_plugin.load(conformer), EnrollOptions(rank=1, epochs=1, learning_rate=0.01)

    assert model.transcribe(tmp_path / "silent.wav").text == ""
    with pytest.raises(PqmError, match="none of 1 recordings can be trained on"):
        model.enroll("ada", [tmp_path / "silent.wav"], ["GO ON"], options=options)
    model.enroll("ada", [tmp_path / "silent.wav", noise(0), noise(1)], TEXTS[:3], options=options)

    assert caplog.text.count("silent.wav is left out: nobody speaks in it: it is silent") == 2
    assert model.speakers == ["ada"]


def test_clipped_sound_is_heard_as_it_is_and_said(conformer, tmp_path, caplog):
    samples = noise(2).astype(np.float32) / 3000
    soundfile.write(tmp_path / "soft.wav", 0.9 * np.clip(samples, -1, 1), RATE, subtype="PCM_16")
    soundfile.write(tmp_path / "loud.wav", np.repeat(np.clip(4 * samples, -1, 1), 4), RATE, subtype="PCM_16")
    model = pqm_plugin.load(conformer)

    found = [model.transcribe(tmp_path / name) for name in ("soft.wav", "loud.wav")]

    assert [each.duration_s for each in found] == [1.0, 4.0]
    assert "loud.wav is clipped (" in caplog.text and "soft.wav" not in caplog.text
    assert caplog.text.count("is clipped") == 1


def test_a_recording_that_is_damaged_late_is_heard_up_to_the_damage_and_then_named(conformer, tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.concatenate([noise(0, 130 * RATE) / 32768, [np.nan]]), RATE, subtype="FLOAT")
    heard = []

    with pytest.raises(PqmError, match=r"a\.wav holds values that are not numbers"):
        heard.extend(PersonalModel(conformer, QUICK).segments(path))

    assert len(heard) >= 3 and heard[0].start_s == 0.0


def test_a_clip_that_is_too_long_to_learn_from_is_left_out_with_the_remedy(conformer, caplog):
    model, options = pqm_plugin.load(conformer), EnrollOptions(rank=1, epochs=1, learning_rate=0.01)

    model.enroll("ada", [noise(0, 31 * RATE), noise(1), noise(2)], TEXTS[:3], options=options)

    assert "clip 1 is left out: it is 31 s long: cut it into sentences of at most 30 s" in caplog.text


@pytest.fixture
def hour(shared, tmp_path) -> Path:
    """An hour of a real reader, again and again, in one file."""
    files = sorted((shared / "data/LibriSpeech/dev-clean/84").glob("*/*.flac"))
    read = [soundfile.read(path, dtype="int16")[0] for path in files]
    said, left = np.concatenate(read), 3600 * RATE
    with soundfile.SoundFile(tmp_path / "hour.flac", "w", RATE, 1, "PCM_16") as file:
        while left:
            file.write(said[:left])
            left -= len(said[:left])
    return tmp_path / "hour.flac"


@pytest.mark.real
def test_an_hour_is_heard_to_its_end_in_the_memory_of_ten_minutes(conformer, hour, tmp_path):
    short = tmp_path / "short.flac"
    soundfile.write(short, soundfile.read(hour, frames=600 * RATE, dtype="int16")[0], RATE)

    def hear(path: Path) -> None:
        # One piece at a time: what a batch takes depends on how long its pieces happen to be.
        segments = list(PersonalModel(conformer, replace(QUICK, batch_size=1)).segments(path, trimmed=False))
        assert all(part.end_s - part.start_s <= 30 for part in segments)
        (tmp_path / f"{path.stem}.txt").write_text(f"{segments[-1].end_s} {peak_rss_of(os.getpid())}")

    for path in (short, hour):
        assert in_child(lambda path=path: hear(path), tmp_path).said == ""

    (short_s, short_bytes), (hour_s, hour_bytes) = (
        map(float, (tmp_path / f"{name}.txt").read_text().split()) for name in ("short", "hour")
    )
    assert (short_s, hour_s) == (600.0, 3600.0)
    # An allocator may leave tens of MB between two runs; samples that were kept would leave all of theirs.
    samples_bytes = 4 * RATE * (hour_s - short_s)
    assert hour_bytes - short_bytes < samples_bytes / 1.5
