"""Cut long audio where nobody speaks."""

from collections.abc import Iterable, Iterator

import numpy as np

_STEP_S = 0.02
_PAUSE_S = 0.3
_SEARCHED = 0.5  # the share of the longest piece, from its end, in which a pause is looked for


def cut_at_silence(audio: np.ndarray, sample_rate: int, longest_s: float) -> list[np.ndarray]:
    """Pieces of at most `longest_s` seconds that put together are `audio`, float32 (n_samples,).

    Each cut is in the middle of the quietest 0.3 seconds of the second half of what fits.
    """
    return list(cut_blocks_at_silence([audio], sample_rate, longest_s))


def cut_blocks_at_silence(blocks: Iterable[np.ndarray], sample_rate: int, longest_s: float) -> Iterator[np.ndarray]:
    """The pieces of `cut_at_silence` for audio that comes in blocks (n_samples,), each as soon as it is known."""
    longest = int(longest_s * sample_rate)
    rest: np.ndarray = np.zeros(0, np.float32)
    for block in blocks:
        rest = np.concatenate([rest, block]) if len(rest) else block
        while len(rest) > longest:
            first = int(longest * (1 - _SEARCHED))
            cut = first + _quietest(rest[first:longest], sample_rate)
            yield rest[:cut]
            rest = rest[cut:]
    yield rest


def _quietest(audio: np.ndarray, sample_rate: int) -> int:
    """The sample in the middle of the stretch of least energy."""
    step = max(1, int(_STEP_S * sample_rate))
    n_steps = len(audio) // step
    width = min(n_steps, round(_PAUSE_S / _STEP_S))
    if width < 1:
        return max(1, len(audio))
    energy = np.square(audio[: n_steps * step], dtype=np.float64).reshape(n_steps, step).sum(axis=1)
    windows = np.convolve(energy, np.ones(width), mode="valid")
    return max(1, int((int(windows.argmin()) + width / 2) * step))
