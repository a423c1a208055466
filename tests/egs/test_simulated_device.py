"""Simulated devices: one a reader, the same in every utterance, and nothing of the corpus is lost."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pqm_plugin.corpus.readers.librispeech import read
from pqm_plugin.files import read_json
from tests.egs.scripts import loaded, run_script

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "egs/librispeech/local/simulate_device.py"


@pytest.fixture(scope="module")
def simulator():
    return loaded(SCRIPT)


def test_the_same_seed_and_reader_have_the_same_device_and_others_have_others(simulator):
    one, again, other = (simulator.draw(*who, (8.0, 20.0)) for who in (("84", 0), ("84", 0), ("777", 0)))

    assert one == again != other
    assert simulator.draw("84", 1, (8.0, 20.0)) != one
    assert 8 <= one.snr_db <= 20


def test_the_noise_is_as_loud_as_drawn_and_the_band_is_kept(simulator):
    device = simulator.draw("84", 0, (10.0, 10.0))
    rng = np.random.default_rng(1)
    tone = 0.3 * np.sin(2 * np.pi * 1000 * np.arange(32000) / 16000)
    plain = np.zeros(100)
    plain[0] = 1.0

    heard = simulator.through(tone, device, plain, rng)

    spectrum = np.abs(np.fft.rfft(heard)) ** 2
    hertz = np.fft.rfftfreq(len(heard), 1 / 16000)
    near = np.abs(hertz - 1000) < 5
    # The band takes some of the noise away; it cannot add any, and here leaves a tenth at the least.
    ratio_db = 10 * np.log10(spectrum[near].sum() / spectrum[~near].sum())
    assert 10 <= ratio_db <= 20
    above = spectrum[hertz > 1.5 * device.high_hz].sum()
    assert above < 1e-3 * spectrum.sum()
    assert np.abs(heard).max() <= 0.9


def test_a_set_is_written_whole_under_a_name_of_its_own_and_twice_the_same(make_corpus, tmp_path):
    corpus = make_corpus({"dev": {"84-1-0000": "GO ON", "84-1-0001": "STOP", "777-2-0000": "NO"}}, n_samples=8000)
    alone, here = (["--corpus", corpus, "--sets", "dev", "--out", tmp_path / name] for name in ("a", "b"))

    subprocess.run([sys.executable, SCRIPT, *alone], check=True, capture_output=True, env={"PYTHONPATH": str(ROOT)})
    assert run_script(SCRIPT, *here).returncode == 0

    before, after = list(read(corpus, "dev")), list(read(tmp_path / "a", "dev-device"))
    assert [(one.utterance, one.text) for one in before] == [(one.utterance, one.text) for one in after]
    for one, other in zip(before, after, strict=True):
        samples = [soundfile.read(found.audio)[0] for found in (one, other)]
        assert len(samples[0]) == len(samples[1])
        assert not np.allclose(*samples)
    files = [sorted((tmp_path / name).rglob("*.flac")) for name in ("a", "b")]
    assert [a.read_bytes() for a in files[0]] == [b.read_bytes() for b in files[1]]


def test_to_learn_from_readers_are_heard_through_several_devices_and_stay_who_they_are(make_corpus, tmp_path):
    corpus = make_corpus({"sat": {"84-1-0000": "GO ON", "84-1-0001": "STOP"}}, n_samples=8000)
    asked = ["--corpus", corpus, "--sets", "sat", "sat:3", "--out", tmp_path / "out"]

    assert run_script(SCRIPT, *asked).returncode == 0

    once, often = (list(read(tmp_path / "out", name)) for name in ("sat-device", "sat-device3"))
    assert [one.utterance for one in often] == [
        f"84-{chapter}-{number}" for chapter in ("1", "1000001", "2000001") for number in ("0000", "0001")
    ]
    assert {one.speaker for one in often} == {"84"}
    assert [one.text for one in often] == 3 * ["GO ON", "STOP"]
    sounds = [soundfile.read(one.audio)[0] for one in (*once, *often)]
    assert np.array_equal(sounds[0], sounds[2])
    assert np.array_equal(sounds[1], sounds[3])
    assert len({sound.tobytes() for sound in sounds}) == 6


def test_a_number_of_devices_that_is_none_is_named(make_corpus, tmp_path):
    corpus = make_corpus({"sat": {"84-1-0000": "GO ON"}})
    asked = ["--corpus", corpus, "--sets", "sat:0", "--out", tmp_path / "out"]

    ended = run_script(SCRIPT, *asked)

    assert ended.returncode == 1
    assert "such as sat:4" in ended.stderr


def test_another_seed_or_range_of_noise_gives_other_sound_and_the_record_tells_the_devices_that_were_used(
    simulator, make_corpus, tmp_path
):
    corpus = make_corpus({"dev": {"84-1-0000": "GO ON"}}, n_samples=8000)
    asked = ["--corpus", corpus, "--sets", "dev", "--out", tmp_path / "out"]
    sound, record = (tmp_path / "out/dev-device" / name for name in ("84/1/84-1-0000.flac", "made.json"))
    heard, said, devices = [], [], []

    for further in ([], [], ["--seed", "1"], ["--seed", "1", "--snr_db", "30", "40"]):
        done = run_script(SCRIPT, *asked, *further)
        assert done.returncode == 0, done.stderr
        heard.append((sound.read_bytes(), sound.stat().st_ino))
        said.append(done.stderr)
        devices.append(simulator.Device(**read_json(record)["readers"]["84"][0]))

    assert heard[0] == heard[1]
    assert len({sound for sound, _ in heard}) == 3
    assert "doing it again" not in said[1]
    assert "made with other settings (seed)" in said[2]
    assert "made with other settings (snr_db)" in said[3]
    assert (devices[0].snr_db, devices[2].snr_db) == tuple(
        simulator.draw("84", seed, (8.0, 20.0)).snr_db for seed in (0, 1)
    )
    assert 30 <= devices[3].snr_db <= 40


def test_simulated_readers_without_a_record_are_kept_where_their_device_is_the_one_asked_for(make_corpus, tmp_path):
    corpus = make_corpus({"sat": {"84-1-0000": "GO ON", "84-1-0001": "STOP"}}, n_samples=8000)
    asked = ["--corpus", corpus, "--sets", "sat:2", "--out", tmp_path / "out"]
    record = tmp_path / "out/sat-device2/made.json"
    assert run_script(SCRIPT, *asked).returncode == 0
    before = record.read_bytes()
    said = []

    for further in ([], ["--seed", "1"]):
        record.unlink()
        done = run_script(SCRIPT, *asked, *further)
        assert done.returncode == 0, done.stderr
        said.append((done.stderr, record.read_bytes() == before))

    assert [("it is kept" in text, "making it again" in text, same) for text, same in said] == [
        (True, False, True),
        (False, True, False),
    ]
