"""Audio samples in memory: choose or average channels, resample, scale, and cut into blocks."""

import functools
import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations, groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from pqm_plugin.errors import PqmError

_Samples = npt.NDArray[np.float32]
_STEP_S = 0.025
# Energies are compared over 0.1 s; a reflection or a microphone's place delays a channel by no more.
_WINDOW = 4
_LAGS = range(-_WINDOW, _WINDOW + 1)
# What is this far below the loud parts of both channels says nothing of either.
_PAUSE_DB = 15.0
# Speech of its own stands out against the other channel by this much, in this share of what is loud.
_APART_DB = 6.0
_LEAST_SHARE = 0.05
# A channel this far below the loudest one carries nobody.
_FAINT_DB = 35.0
_SILENCE_DB = -65.0
# Speech has pauses: the level of noise that is even changes by less.
_LEAST_SPREAD_DB = 4.0
_LEAST_S = 1.0
# An average so far below the channels is what is left of two that cancel each other out.
_CANCELLED_DB = 15.0
TWO_PEOPLE = "its channels differ as those of two people do, and their average has both at once"
CANCELLED = "its channels cancel each other out, and their average is next to silent"


def mono(samples: _Samples, channel: int | None, name: str) -> _Samples:
    """Return one channel `(n_samples,)` of samples `(n_samples, n_channels)`, or the average of all for None.

    Raises:
        PqmError: if there is no such channel; they are counted from 0.
    """
    n_channels = samples.shape[1]
    check_channel(channel, n_channels, name)
    if channel is None and n_channels > 1:
        return samples.mean(axis=1, dtype=np.float32)
    return samples[:, channel or 0]


def check_channel(channel: int | None, n_channels: int, name: str) -> None:
    """See that a recording has the channel that is asked for.

    Raises:
        PqmError: if there is no such channel; channels are counted from 0.
    """
    if channel is not None and not 0 <= channel < n_channels:
        there = "one channel, 0" if n_channels == 1 else f"{n_channels} channels, 0 to {n_channels - 1}"
        raise PqmError(f"{name}: there is no channel {channel}: it has {there}; name one of them")


class Channels:
    """What the channels of one recording carry, as it is read block by block."""

    def __init__(self) -> None:
        """Start with nothing read."""
        self._energies: list[npt.NDArray[np.float64]] = []

    def add(self, samples: _Samples, sample_rate: int) -> None:
        """Take in the next block `(n_samples, n_channels)`, at `sample_rate` in Hz."""
        length = max(1, round(_STEP_S * sample_rate))
        n_frames = len(samples) // length
        # The average stands behind the channels.
        with_mean = np.column_stack([samples, samples.mean(axis=1, dtype=np.float32)])[: n_frames * length]
        squares = np.square(with_mean, dtype=np.float64).reshape(n_frames, length, samples.shape[1] + 1)
        self._energies.append(squares.mean(axis=1))

    def trouble(self) -> str:
        """Why the average of the channels so far is not useful; empty if it is.

        Either each of two channels has speech of its own (each now and then stands out against the other, measured by
        its own loudness), or the channels cancel each other out. The same sound on both, delayed by up to
        0.1 s, softer, or with noise, is one speaker, and so is a channel beside a silent one.
        """
        energies = np.concatenate(self._energies) if self._energies else np.zeros((0, 2))
        if len(energies) * _STEP_S < _LEAST_S or energies.shape[1] < 3:
            return ""
        whole_db = 10 * np.log10(energies.mean(axis=0) + 1e-12)
        carrying = [
            place
            for place in range(energies.shape[1] - 1)
            if whole_db[place] > max(_SILENCE_DB, whole_db[:-1].max() - _FAINT_DB)
        ]
        if any(_are_two(energies[:, one], energies[:, other]) for one, other in combinations(carrying, 2)):
            return TWO_PEOPLE
        return CANCELLED if carrying and whole_db[-1] < whole_db[carrying].min() - _CANCELLED_DB else ""


def trouble_of(blocks: Iterable[tuple[_Samples, int]]) -> str:
    """What `Channels.trouble` says of a recording, from blocks `(n_samples, n_channels)` and their rate in Hz."""
    channels = Channels()
    for samples, sample_rate in blocks:
        channels.add(samples, sample_rate)
    return channels.trouble()


def _are_two(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> bool:
    """Whether energies `(n_steps,)` of two channels are those of two speakers, however one is delayed."""
    levels = _levels_db(one), _levels_db(other)
    if min(level.std() for level in levels) < _LEAST_SPREAD_DB:
        return False
    return min(_share_apart(*levels, lag) for lag in _LAGS) >= _LEAST_SHARE


def _levels_db(energies: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Levels `(n_windows,)` in decibels below the loud parts of the same channel, from -30 to 0."""
    windows = np.convolve(energies, np.ones(_WINDOW), mode="valid")
    loud = np.percentile(windows, 95) + 1e-12
    return np.clip(10 * np.log10(windows / loud + 1e-12), -2 * _PAUSE_DB, 0.0)


def _share_apart(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64], lag: int) -> float:
    """The share of what is loud in which a channel stands out, of the channel that does so less; in [0, 1]."""
    n_windows = len(one) - abs(lag)
    a, b = one[max(0, lag) :][:n_windows], other[max(0, -lag) :][:n_windows]
    loud = np.maximum(a, b) > -_PAUSE_DB
    apart = (a - b)[loud]
    return float(min((apart > _APART_DB).mean(), (apart < -_APART_DB).mean())) if len(apart) else 0.0


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
