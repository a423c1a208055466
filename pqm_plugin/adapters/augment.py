"""SpecAugment: stretches of time and bands of frequency of an utterance are hidden while an adapter learns."""

import torch
from torch import Tensor

_FREQUENCY_MASKS, _TIME_MASKS = 2, 2
_WIDEST_BAND = 0.2
_LONGEST_STRETCH = 0.05
"""Of the bins, and of the frames, that one mask hides at most."""


def masked(features: Tensor) -> Tensor:
    """Hide bands and stretches that torch's generator draws, by the mean of what there is.

    SpecAugment (arXiv 1904.08779) without warping, two masks of each kind.

    Args:
        features: float32 (T, D).

    Returns:
        A copy, float32 (T, D).
    """
    changed, fill = features.clone(), features.mean()
    n_frames, n_bins = features.shape
    for _ in range(_FREQUENCY_MASKS):
        first, end = _stretch(n_bins, _WIDEST_BAND)
        changed[:, first:end] = fill
    for _ in range(_TIME_MASKS):
        first, end = _stretch(n_frames, _LONGEST_STRETCH)
        changed[first:end] = fill
    return changed


def _stretch(size: int, share: float) -> tuple[int, int]:
    length = int(torch.randint(0, int(size * share) + 1, ()))
    first = int(torch.randint(0, size - length + 1, ()))
    return first, first + length
