"""Resample audio that comes in blocks, to the very samples that the whole would give."""

import math
from collections.abc import Iterable, Iterator

import numpy as np

from pqm_plugin.corpus.audio import Samples, resample

# Half the length of scipy's default filter, in samples of the higher of the two rates' common multiple.
_HALF_FILTER = 10


def resampled(blocks: Iterable[Samples], rate: int, wanted: int) -> Iterator[Samples]:
    """Yield samples `(n_samples,)` at `wanted` Hz; a block is held back by as much as the filter looks ahead.

    Source: `scipy.signal.resample_poly`, whose filter has 20 max(up, down) + 1 taps at `up` times the rate.
    """
    if rate == wanted:
        yield from blocks
        return
    common = math.gcd(rate, wanted)
    up, down = wanted // common, rate // common
    reach = -(-_HALF_FILTER * max(up, down) // up)
    held: Samples = np.zeros(0, np.float32)
    # Of `held`, in samples of the old rate, multiples of `down`: what was given out already.
    given = 0
    for block in blocks:
        held = np.concatenate([held, block])
        until = max(given, (len(held) - reach) // down * down)
        if until > given:
            yield resample(held, rate, wanted)[given * up // down : until * up // down]
            drop = max(0, (until - reach) // down * down)
            held, given = held[drop:], until - drop
    if len(held) > given:
        yield resample(held, rate, wanted)[given * up // down :]
