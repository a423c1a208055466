"""Cut a recording of any length into pieces that a recogniser can take."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from pqm_plugin.corpus.recording import Sound, is_silent, stream_sound
from pqm_plugin.errors import PqmError
from pqm_plugin.models.silence import cut_blocks_at_silence

SHORTEST_S = 0.1
"""Shorter sounds, in seconds, hold no word, and are less than the window over which features are computed."""

LONGEST_S = 30.0
"""Longer audio, in seconds, is cut at silence to be transcribed, and not trained on: memory grows with its square."""


def pieces_of(
    recognizer: Any,
    audio: Sound,
    longest_s: float,
    sample_rate: int | None = None,
    channel: int | None = None,
) -> Iterator[np.ndarray]:
    """Yield pieces, float32 (n_samples,) at the recogniser's rate, that put together are the recording.

    A file is read as pieces are asked for.

    Args:
        recognizer: with `facts` and `pieces` of `models/interface.py:Recognizer`.
        longest_s: seconds; what is longer is cut where nobody speaks, and again where the model's window is shorter.
        sample_rate: of an array, in Hz; default: the recogniser's own.
        channel: the one that is used, from 0; None averages all.

    Raises:
        PqmError: if the audio cannot be read; what was yielded before stands.
    """
    rate = recognizer.facts.sample_rate
    for part in cut_blocks_at_silence(stream_sound(audio, rate, sample_rate, channel), rate, longest_s):
        yield from recognizer.pieces(part)


def within(pieces: Iterator[np.ndarray], sample_rate: int, most_s: float) -> Iterator[np.ndarray]:
    """Hand on pieces (n_samples,) until they are more than `most_s` seconds together.

    Raises:
        PqmError: when they are.
    """
    left = most_s * sample_rate
    for piece in pieces:
        left -= len(piece)
        if left < 0:
            raise PqmError(f"the recording lasts more than {most_s:g} s, which is the most: cut it")
        yield piece


def may_hold_words(piece: np.ndarray, sample_rate: int) -> bool:
    """Whether a piece (n_samples,) is long and loud enough; of others a model would make up its words."""
    return len(piece) >= SHORTEST_S * sample_rate and not is_silent(piece)


def batches[T](pieces: Iterator[T], most: int) -> Iterator[list[T]]:
    """Pieces to search at once: one, so that its words come soon, then twice as many each time, up to `most`.

    Raises:
        PqmError: as reading the pieces does; those before it are yielded first.
    """
    size, batch = 1, []
    try:
        for piece in pieces:
            batch.append(piece)
            if len(batch) == size:
                yield batch
                size, batch = min(2 * size, most), []
    except PqmError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch
