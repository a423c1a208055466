"""Long audio is cut where nobody speaks, nothing of it is lost, and times of words leave silence out."""

import numpy as np
import pytest

from pqm_plugin.models.silence import cut_at_silence, speech_bounds

RATE = 1000


def speech(*parts):
    """Noise of so many seconds, a negative number for silence."""
    rng = np.random.default_rng(0)
    pieces = [rng.normal(size=int(abs(s) * RATE)) * (s > 0) for s in parts]
    return np.concatenate(pieces).astype("float32")


def test_audio_that_fits_stays_whole():
    audio = speech(3)

    [piece] = cut_at_silence(audio, RATE, 3.0)

    assert piece is audio


def test_a_cut_is_in_the_middle_of_the_pause():
    pieces = cut_at_silence(speech(6, -0.6, 6), RATE, 10.0)

    assert [len(piece) / RATE for piece in pieces] == pytest.approx([6.3, 6.3], abs=0.2)


def test_a_pause_that_comes_too_early_is_not_taken():
    first, *_ = cut_at_silence(speech(1, -1, 20), RATE, 10.0)

    assert len(first) >= 5 * RATE


@pytest.mark.parametrize("longest_s", [0.002, 0.01, 0.5, 7.0])
@pytest.mark.parametrize("parts", [(25,), (-25,), (3, -1, 9, -0.1, 14)])
def test_the_pieces_fit_and_put_together_are_the_audio(parts, longest_s):
    audio = speech(*parts)

    pieces = cut_at_silence(audio, RATE, longest_s)

    assert np.array_equal(np.concatenate(pieces), audio)
    assert all(0 < len(piece) <= longest_s * RATE for piece in pieces)


def said(before_s, speech_s, after_s, room=0.0):
    """Syllables at 16 kHz, four a second, in a room of so much noise."""
    rng = np.random.default_rng(0)
    n_before, n_speech, n_after = (int(16000 * length) for length in (before_s, speech_s, after_s))
    syllables = 0.1 * rng.normal(size=n_speech) * np.abs(np.sin(4 * np.pi * np.arange(n_speech) / 16000))
    audio = np.concatenate([np.zeros(n_before), syllables, np.zeros(n_after)])
    return (audio + room * rng.normal(size=len(audio))).astype("float32")


def times(audio):
    return [place / 16000 for place in speech_bounds(audio, 16000)]


@pytest.mark.parametrize("room", [0.0, 0.0003, 0.003])
@pytest.mark.parametrize(("before_s", "speech_s", "after_s"), [(3.2, 2, 3), (0, 2, 3), (3, 2, 0), (14, 0.6, 14)])
def test_speech_begins_and_ends_where_it_is_louder_than_the_room(before_s, speech_s, after_s, room):
    audio = said(before_s, speech_s, after_s, room)

    assert times(audio) == pytest.approx([before_s, before_s + speech_s], abs=0.2)


def test_a_click_before_speech_is_none():
    audio = said(3, 2, 1)
    audio[16000:16400] = 0.9

    assert times(audio) == pytest.approx([3, 5], abs=0.2)


def test_speech_from_end_to_end_and_sound_without_a_pause_are_whole():
    steady = np.random.default_rng(0).normal(size=16000).astype("float32")

    for audio in (said(0, 3, 0), steady, np.zeros(16000, np.float32), steady[:100], steady[:0]):
        assert speech_bounds(audio, 16000) == (0, len(audio))
