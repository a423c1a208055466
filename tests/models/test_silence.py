"""Long audio is cut where nobody speaks, and nothing of it is lost."""

import numpy as np
import pytest

from pqm_plugin.models.silence import cut_at_silence

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
