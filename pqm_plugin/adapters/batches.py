"""Group utterances into batches with a loss for each, and mask features (SpecAugment)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Example:
    """One utterance ready to train on: features float32 (T, D), tokens int64 (U,)."""

    features: Tensor
    tokens: Tensor


class BatchLoss(Protocol):
    """What the loop needs of a loss, see `models.Loss`."""

    @property
    def total(self) -> Tensor: ...
    @property
    def n_utterances(self) -> int: ...
    @property
    def n_correct(self) -> int: ...
    @property
    def n_tokens(self) -> int: ...


class PreparedBatch(Protocol):
    """The loss of one batch, computed at every call; `size_bytes` is what it holds beside the features."""

    @property
    def size_bytes(self) -> int: ...
    def __call__(self) -> BatchLoss: ...


LossFunction = Callable[[Sequence[Tensor], Sequence[Tensor]], BatchLoss]
LossesFunction = Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[int]], Sequence[BatchLoss]]
"""The same of groups of rows, one after another, of as many rows as the last argument says."""
Augmentation = Callable[[Tensor], Tensor]
Preparation = Callable[[Sequence[Tensor], Sequence[Tensor]], PreparedBatch]


class Memory:
    """How many bytes prepared batches may still hold."""

    def __init__(self, size_bytes: int = 2**30) -> None:
        self._left = size_bytes

    def take(self, size_bytes: int) -> bool:
        """Whether there is room for so many; if so, it is taken."""
        fits = size_bytes <= self._left
        self._left -= size_bytes if fits else 0
        return fits


class Grouped:
    """The batches of a split, each features and tokens of some utterances."""

    def __init__(self, examples: Sequence[Example], batch_frames: int, augment: Augmentation | None = None) -> None:
        """Group `examples`; `augment` changes the features (T, D) of one anew at every use."""
        chosen = [[examples[i] for i in batch] for batch in batches_by_length(examples, batch_frames)]
        self._batches = [([e.features for e in batch], [e.tokens for e in batch]) for batch in chosen]
        self._augment = augment
        self.n_utterances = len(examples)

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._batches)

    def batch(self, index: int) -> tuple[list[Tensor], list[Tensor]]:
        """The features and the tokens of its utterances."""
        features, tokens = self._batches[index]
        return features if self._augment is None else [self._augment(each) for each in features], tokens


class Batches(Grouped):
    """Batches with their losses; what does not change in one is computed at its first use, as far as memory goes."""

    def __init__(
        self,
        examples: Sequence[Example],
        batch_frames: int,
        loss: LossFunction,
        prepare: Preparation | None = None,
        memory: Memory | None = None,
        augment: Augmentation | None = None,
    ) -> None:
        """Group `examples`; without `prepare`, every loss is computed from the features.

        Args:
            augment: changes the features (T, D) of an example anew at every use, so that nothing of it is prepared.
        """
        super().__init__(examples, batch_frames, augment)
        self._prepared: dict[int, PreparedBatch] = {}
        self._loss = loss
        self._prepare = None if augment else prepare
        self._memory = memory or Memory()

    def loss(self, index: int) -> BatchLoss:
        """The loss of a batch, as the model is now; the model must be in the same mode whenever this is called."""
        if (ready := self._prepared.get(index)) is not None:
            return ready()
        features, tokens = self.batch(index)
        if self._prepare is None:
            return self._loss(features, tokens)
        prepared = self._prepare(features, tokens)
        if self._memory.take(prepared.size_bytes):
            self._prepared[index] = prepared
        else:
            self._prepare = None
        return prepared()


def batches_by_length(examples: Sequence[Example], batch_frames: int) -> list[list[int]]:
    """Group indices of similar length so that no padded batch exceeds `batch_frames`, or holds one alone that does."""
    batches: list[list[int]] = [[]]
    for index in sorted(range(len(examples)), key=lambda i: (len(examples[i].features), i)):
        if batches[-1] and (len(batches[-1]) + 1) * len(examples[index].features) > batch_frames:
            batches.append([])
        batches[-1].append(index)
    return batches


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
