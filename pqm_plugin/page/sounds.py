"""Audio that came through the browser: measured before it is decoded, and named as its owner named it."""

from pathlib import Path

import numpy as np

from pqm_plugin.corpus.audio import Samples, look
from pqm_plugin.corpus.recording import Warn, stream_sound
from pqm_plugin.errors import PqmError

# Decoded samples of a minute may take no more memory than this rate would in stereo, whatever a small file promises.
_RICHEST_HZ = 2 * 96_000


def load_within(path: Path, sample_rate: int, longest_s: float, warn: Warn | None = None) -> Samples:
    """Return samples `(n_samples,)`, float32 in [-1, 1], at `sample_rate` in Hz, of a file of at most `longest_s`.

    `warn` is told what is odd about its channels.

    Raises:
        PqmError: if it is longer, or cannot be read; it names the file without its folder, which is the page's own.
    """
    try:
        check_length(path, longest_s)
        blocks, left = [], longest_s * sample_rate
        for samples in stream_sound(path, sample_rate, warn=_unplaced(path, warn) if warn else None):
            blocks.append(samples)
            left -= len(samples)
            if left < 0:
                raise PqmError(f"{path.name} lasts more than {longest_s:g} s, which is the most: cut it")
        return np.concatenate(blocks)
    except PqmError as error:
        raise PqmError(str(error).replace(str(path), path.name)) from error


def check_length(path: Path, longest_s: float) -> None:
    """Look at what a file says of itself, before it is decoded.

    Raises:
        PqmError: if it is longer than `longest_s`, would take far more memory than speech does, or cannot be read.
    """
    rate, n_channels, duration_s = look(path)
    if duration_s is not None and duration_s > longest_s:
        raise PqmError(f"{path.name} lasts {duration_s:.0f} s, the most is {longest_s:g} s: cut it")
    if (longest_s if duration_s is None else duration_s) * rate * n_channels > longest_s * _RICHEST_HZ:
        raise PqmError(f"{path.name} has {n_channels} channels at {rate} Hz: mix it to mono")


def _unplaced(path: Path, warn: Warn) -> Warn:
    """Say it without the page's folder, and with what can be done on a page."""

    def saying(words: str) -> None:
        warn(words.replace(str(path), path.name).rpartition(": ")[0] + ": bring each channel as a file of its own")

    return saying
