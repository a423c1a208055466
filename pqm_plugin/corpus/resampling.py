"""Bring samples to another rate, scale, number of channels or size of blocks; in blocks as if they came whole."""

import functools
import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]

_log = logging.getLogger(__name__)

# Half the length of scipy's default filter, in samples of the higher of the two rates' common multiple.
_HALF_FILTER = 10
# Floats overshoot 1 by a few times, never by this much; integers that were not scaled do.
_LARGEST_FLOAT = 64.0


def resample(samples: Samples, rate: int, wanted: int) -> Samples:
    """Return samples `(n_samples, ...)` at another rate in Hz, by polyphase filtering."""
    if rate == wanted:
        return samples
    _say_resampled(rate, wanted)
    # scipy rather than torchaudio: the same polyphase method, an exact ratio, and no five seconds of import.
    from scipy.signal import resample_poly

    common = math.gcd(rate, wanted)
    return resample_poly(samples, wanted // common, rate // common).astype(np.float32, copy=False)


@functools.cache
def _say_resampled(rate: int, wanted: int) -> None:
    _log.warning("audio at %d Hz is resampled to %d Hz", rate, wanted)


def resampled(blocks: Iterable[Samples], rate: int, wanted: int) -> Iterator[Samples]:
    """Yield samples `(n_samples, ...)` at `wanted` Hz; a block is held back by as much as the filter looks ahead.

    Source: `scipy.signal.resample_poly`, whose filter has 20 max(up, down) + 1 taps at `up` times the rate.
    """
    if rate == wanted:
        yield from blocks
        return
    common = math.gcd(rate, wanted)
    up, down = wanted // common, rate // common
    reach = -(-_HALF_FILTER * max(up, down) // up)
    held: Samples | None = None
    # Of `held`, in samples of the old rate, multiples of `down`: what was given out already.
    given = 0
    for block in blocks:
        held = block if held is None else np.concatenate([held, block])
        until = max(given, (len(held) - reach) // down * down)
        if until > given:
            yield resample(held, rate, wanted)[given * up // down : until * up // down]
            drop = max(0, (until - reach) // down * down)
            held, given = held[drop:], until - drop
    if held is not None and len(held) > given:
        yield resample(held, rate, wanted)[given * up // down :]


@dataclass(frozen=True)
class Scale:
    """What to divide floats by that are on a scale of integers; 1 where they are not."""

    divisor: float

    @classmethod
    def of(cls, blocks: Iterable[Any]) -> "Scale":
        """The scale of all `blocks` of floats together."""
        peak, whole = 0.0, True
        for block in blocks:
            sizes = np.abs(block[np.isfinite(block)])
            peak = max(peak, float(sizes.max(initial=0.0)))
            whole = whole and bool((sizes == np.rint(sizes)).all())
        # Numbers without fractions above 1 are integers that were never scaled, however soft.
        if peak <= 1 or (peak <= _LARGEST_FLOAT and not whole):
            return cls(1.0)
        return cls(next((2.0**bits for bits in (15, 23, 31) if peak <= 2.0 ** (bits + 1)), 1.0))

    def applied(self, samples: Any) -> tuple[Any, str]:
        """The samples in [-1, 1], and what to say about it, if anything."""
        if self.divisor == 1:
            return samples, ""
        bits = int(np.log2(self.divisor)) + 1
        said = f"holds floats on the scale of {bits}-bit integers: they are divided by {self.divisor:.0f}"
        return samples / samples.dtype.type(self.divisor), said


def with_channels(samples: Samples, n_channels: int) -> Samples:
    """Samples `(n_samples, n_channels)` of any number of channels: the mean of those there are, in each."""
    if samples.shape[1] == n_channels:
        return samples
    return np.repeat(samples.mean(axis=1, dtype=np.float32, keepdims=True), n_channels, axis=1)


def at_one_rate(pieces: Iterable[tuple[Samples, int]], rate: int, n_channels: int) -> Iterator[Samples]:
    """The samples at `rate`, for a stream may change its rate and channels on its way."""
    for given, group in groupby(pieces, key=lambda piece: piece[1]):
        yield from resampled((with_channels(samples, n_channels) for samples, _ in group), given, rate)


def regrouped(pieces: Iterable[Samples], n_samples: int) -> Iterator[Samples]:
    """Blocks of `n_samples`, the last one shorter, out of pieces of any length."""
    held: list[Samples] = []
    n_held = 0
    for piece in pieces:
        held.append(piece)
        n_held += len(piece)
        if n_held >= n_samples:
            whole = np.concatenate(held)
            n_given = n_held // n_samples * n_samples
            yield from (whole[at : at + n_samples] for at in range(0, n_given, n_samples))
            held, n_held = [whole[n_given:]], n_held - n_given
    if n_held:
        yield np.concatenate(held)
