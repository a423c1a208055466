"""Copies for tools that read plain files alone: only where needed, and never an old one."""

import numpy as np
import soundfile

from pqm_plugin.corpus.audio import load_audio, plain_file
from pqm_plugin.corpus.utterance import Utterance


def written(path, sample_rate=16000, seed=0):
    samples = np.random.default_rng(seed).integers(-3000, 3000, sample_rate, dtype=np.int16)
    soundfile.write(path, samples, sample_rate)
    return path


def test_a_file_that_is_the_utterance_is_taken_as_it_is(tmp_path):
    path = written(tmp_path / "a.flac")

    assert plain_file(Utterance("a", "s", "x", str(path)), 16000, tmp_path / "copies") == path
    assert not (tmp_path / "copies").exists()


def test_a_segment_and_another_rate_give_a_copy_with_the_samples_of_load_audio(tmp_path):
    path = written(tmp_path / "a.wav", 8000)
    segment = Utterance("a", "s", "x", str(path), start_s=0.25, end_s=0.75, recording="r")

    copy = plain_file(segment, 16000, tmp_path / "copies")

    samples, rate = soundfile.read(copy, dtype="float32")
    assert rate == 16000
    assert np.array_equal(samples, load_audio(segment, 16000))
    assert len(samples) == 8000


def test_a_changed_source_or_rate_is_not_answered_with_the_old_copy(tmp_path):
    path = written(tmp_path / "a.wav", 8000)
    utterance = Utterance("a", "s", "x", str(path))
    first = plain_file(utterance, 16000, tmp_path / "copies")

    other_rate = plain_file(utterance, 22050, tmp_path / "copies")
    written(path, 11025, seed=1)
    other_source = plain_file(utterance, 16000, tmp_path / "copies")

    assert len({first, other_rate, other_source}) == 3
    assert np.array_equal(soundfile.read(other_source, dtype="float32")[0], load_audio(utterance, 16000))
