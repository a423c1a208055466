"""Which places of its window Whisper encodes: all, or those that are spoken at and a few of the silence behind them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MARGIN = 50
"""Places of silence after the speech that are encoded one by one: a second."""
SAMPLED = 128
"""Places that stand for all the silence from there to the window's end; with half as many words get lost."""

_NOWHERE = np.float32(-1e30)


@dataclass(frozen=True)
class Places:
    """What is encoded of each row: `positions` int64 (B, P) in the window; `weights` float32 (B, P), added to the
    scores by which attention looks at each; `n_frames` of features that are computed for them.
    """

    positions: np.ndarray
    weights: np.ndarray
    n_frames: int

    @property
    def are_all(self) -> bool:
        """Whether each row has all places of its window."""
        return not self.weights.any()


def spoken(n_frames: Sequence[int], window: int) -> Places:
    """Places of rows with so many frames of features, in a window of `window` frames; a place is two frames.

    Whisper has learned with its window full, and what is silent in it is not idle: without it the decoder repeats
    itself. But silent places differ by their positions alone. So a few of them, evenly spread, are encoded in the place
    of all, each with the logarithm of how many it stands for as its weight: a softmax then gives it what it gives to
    these together. Places beyond a row's own have a weight that leaves nothing of them, so that no row depends on
    others.

    Source: Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023, section 3, proportional attention.
    """
    n_window = window // 2
    rows = [_row(n, n_window) for n in n_frames]
    n_places = 1 + max(len(positions) for positions, _ in rows)
    positions = np.zeros((len(rows), n_places), np.int64)
    weights = np.full((len(rows), n_places), _NOWHERE, np.float32)
    for place, (own, weight) in enumerate(rows):
        positions[place, : len(own)] = own
        weights[place, : len(own)] = weight
    # The window's last place is like no other: it feels that nothing follows it.
    positions[:, -1], weights[:, -1] = n_window - 1, 0
    return Places(positions, weights, 2 * n_places)


def _row(n_frames: int, n_window: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of a row and their weights, without the window's last."""
    n_dense = -(-n_frames // 2) + MARGIN
    n_silent = n_window - 1 - n_dense
    if n_silent <= SAMPLED:
        return np.arange(n_window - 1), np.zeros(n_window - 1, np.float32)
    share = n_silent / SAMPLED
    sampled = n_dense + ((np.arange(SAMPLED) + 0.5) * share).astype(np.int64)
    weights = np.concatenate([np.zeros(n_dense), np.full(SAMPLED, np.log(share))])
    return np.concatenate([np.arange(n_dense), sampled]), weights.astype(np.float32)
