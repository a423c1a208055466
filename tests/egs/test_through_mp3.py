"""Speech through MP3: what the codec leaves out is gone, nothing else moves, and a set is what was asked for."""

import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pqm_plugin.corpus.readers.librispeech import read
from pqm_plugin.files import read_json
from tests.egs.scripts import run_script

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "egs/librispeech/local/through_mp3.py"
RATE = 16000


run = partial(run_script, SCRIPT)


def run_alone(*arguments):
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT)})


def level_db(samples, low_hz, high_hz):
    spectrum = np.abs(np.fft.rfft(samples)) ** 2
    hertz = np.fft.rfftfreq(len(samples), 1 / RATE)
    return 10 * np.log10(spectrum[(hertz >= low_hz) & (hertz < high_hz)].sum() / spectrum.sum())


@pytest.fixture
def clicks(make_corpus):
    """A set whose audio is white noise in bursts, so that its place in time and its band can be seen."""
    corpus = make_corpus({"sat": {"84-1-0000": "GO ON", "84-1-0001": "STOP"}}, n_samples=2 * RATE)
    for number, path in enumerate(sorted((corpus / "sat").rglob("*.flac"))):
        noise = np.random.default_rng(number).normal(0, 0.1, 2 * RATE)
        noise[: RATE // 2] = 0
        noise[RATE:] = 0
        soundfile.write(path, noise, RATE, "PCM_16")
    return corpus


def test_utterances_keep_their_names_lengths_and_places_and_lose_what_is_above_the_cut_off(clicks, tmp_path):
    done = run_alone("--corpus", clicks, "--sets", "sat", "--out", tmp_path / "out")

    assert done.returncode == 0, done.stderr
    before, after = list(read(clicks, "sat")), list(read(tmp_path / "out", "sat-mp3"))
    assert [(one.utterance, one.text) for one in before] == [(one.utterance, one.text) for one in after]
    for one, other in zip(before, after, strict=True):
        samples, heard = (soundfile.read(found.audio)[0] for found in (one, other))
        assert len(samples) == len(heard)
        loud = np.flatnonzero(np.abs(heard) > 0.1)
        assert RATE // 2 - 200 < loud[0] < RATE // 2 + 200 and RATE - 200 < loud[-1] < RATE + 200
        assert np.corrcoef(samples, heard)[0, 1] > 0.5
        assert level_db(samples, 6500, 8000) > -10 > -40 > level_db(heard, 6500, 8000)


def test_a_set_is_stored_twice_the_same_and_others_can_lie_beside_it_as_they_are(clicks, tmp_path):
    outs = [tmp_path / name for name in ("a", "b")]

    for out in outs:
        assert run("--corpus", clicks, "--sets", "sat", "--keep", "sat", "--out", out).returncode == 0

    files = [sorted((out / "sat-mp3").rglob("*.flac")) for out in outs]
    assert [a.read_bytes() for a in files[0]] == [b.read_bytes() for b in files[1]]
    kept = sorted((outs[0] / "sat").rglob("*.flac"))
    assert [path.read_bytes() for path in kept] == [p.read_bytes() for p in sorted((clicks / "sat").rglob("*.flac"))]


def test_a_set_that_is_not_there_and_a_rate_that_mp3_has_not_are_named(clicks, tmp_path):
    lost = run("--corpus", clicks, "--sets", "moon", "--out", tmp_path / "out")
    fast = run("--corpus", clicks, "--sets", "sat", "--out", tmp_path / "out", "--kbit_s", "320")

    assert lost.returncode == 1 and "moon holds no .flac" in lost.stderr
    assert fast.returncode == 1 and "8 to 160" in fast.stderr


def sounds(folder):
    return [path.read_bytes() for path in sorted(folder.rglob("*.flac"))]


def test_a_set_that_is_there_as_asked_for_stays_and_one_of_another_rate_is_made_again_and_told(clicks, tmp_path):
    out = tmp_path / "out"
    ask = ("--corpus", clicks, "--sets", "sat", "--out", out)
    run(*ask)
    first = sorted((out / "sat-mp3").rglob("*.flac"))[0]
    before, inode = sounds(out / "sat-mp3"), first.stat().st_ino

    same, inode_after = run(*ask), first.stat().st_ino
    other = run(*ask, "--kbit_s", "64")
    fresh = run("--corpus", clicks, "--sets", "sat", "--out", tmp_path / "fresh", "--kbit_s", "64")

    assert [done.returncode for done in (same, other, fresh)] == [0, 0, 0]
    assert inode_after == inode
    assert "sat-mp3: made with other settings (kbit_s); doing it again" in other.stderr
    assert sounds(out / "sat-mp3") == sounds(tmp_path / "fresh/sat-mp3") != before
    assert read_json(out / "sat-mp3/made.json")["request"]["kbit_s"] == 64


def test_another_source_of_the_same_name_is_stored_and_copied_again(clicks, tmp_path):
    out = tmp_path / "out"
    ask = ("--corpus", clicks, "--sets", "sat", "--keep", "sat", "--out", out)
    run(*ask)
    soundfile.write(clicks / "sat/84/1/84-1-0001.flac", np.zeros(RATE), RATE, "PCM_16")

    done = run(*ask)

    assert "made with other settings (source)" in done.stderr
    assert "copying it again" in done.stderr
    for name in ("sat", "sat-mp3"):
        assert len(soundfile.read(out / name / "84/1/84-1-0001.flac")[0]) == RATE


def test_a_set_without_a_record_is_kept_if_it_is_what_is_asked_for_and_either_way_it_is_said(clicks, tmp_path):
    out = tmp_path / "out"
    ask = ("--corpus", clicks, "--sets", "sat", "--out", out)
    run(*ask)
    record, first = out / "sat-mp3/made.json", sorted((out / "sat-mp3").rglob("*.flac"))[0]
    kept = record.read_bytes(), first.stat().st_ino
    record.unlink()

    same, after = run(*ask), (record.read_bytes(), first.stat().st_ino)
    record.unlink()
    other = run(*ask, "--kbit_s", "64")

    assert "has no made.json" in same.stderr and "it is kept" in same.stderr
    assert after == kept
    assert "has no made.json" in other.stderr and "making it again" in other.stderr
    assert read_json(record)["request"]["kbit_s"] == 64
    record.unlink()
    shutil.rmtree(out / "sat-mp3/84/1")
    assert "making it again" in run(*ask).stderr
    assert len(sounds(out / "sat-mp3")) == 2
