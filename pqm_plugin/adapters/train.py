"""Train an adapter, or several in the same batches; the same seed gives the same bytes, interrupted or not."""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from pqm_plugin.adapters.bank import LearningRows
from pqm_plugin.adapters.batches import (
    Batches,
    BatchLoss,
    Example,
    Grouped,
    LossesFunction,
    LossFunction,
    Memory,
    Preparation,
    masked,
)
from pqm_plugin.adapters.options import TrainOptions
from pqm_plugin.adapters.state import Checkpoint, Epoch, SharedCheckpoint, TrainingState
from pqm_plugin.errors import PqmError
from pqm_plugin.progress import Bar


@dataclass(frozen=True)
class TrainResult:
    """The kept epoch and one row an epoch; the kept weights are in the model."""

    best_epoch: int
    log: list[Epoch]


@dataclass(frozen=True)
class Member:
    """A speaker who is trained beside others: the name in errors, and the utterances to train on and to judge by."""

    label: str
    train: Sequence[Example]
    dev: Sequence[Example]


def train_adapter(
    model: nn.Module,
    loss: LossFunction,
    train: Sequence[Example],
    dev: Sequence[Example],
    options: TrainOptions,
    seed: int,
    checkpoint: Path,
    label: str,
    prepare: Preparation | None = None,
    watch: Callable[[int, int], None] | None = None,
) -> TrainResult:
    """Train what is trainable in `model` and leave its best epoch in it.

    Args:
        checkpoint: a file that holds the state after every epoch; if it is there, training goes on from it. It is
            the caller's to delete, once the adapter is saved.
        label: shown before the progress bar.
        prepare: gives the very losses of `loss`, with what does not change from step to step computed once.
        watch: is told, before the first batch and after every one, how many are done, and of how many at most. What it
            raises ends the training as a kill would: the checkpoint stays.

    Raises:
        PqmError: if `train` or `dev` is empty, or the loss is no longer finite.
    """
    _check_not_empty(label, train, dev)
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    memory = Memory()
    learned = Batches(train, options.batch_frames, loss, prepare, memory, masked if options.spec_augment else None)
    judged = Batches(dev, options.batch_frames, loss, prepare, memory)
    learner = _Learner(label, parameters, options, learned, judged)

    @contextmanager
    def losses(learners: Sequence[_Learner], indices: Sequence[int], *, dev: bool) -> Iterator[Sequence[BatchLoss]]:
        yield [(judged if dev else learned).loss(index) for index in indices]

    _Trainer(model, losses, options).run([learner], seed, Checkpoint(checkpoint, learner), label, watch)
    learner.restore_best()
    return TrainResult(learner.best_epoch, learner.log)


def train_together(
    model: nn.Module,
    losses: LossesFunction,
    members: Sequence[Member],
    options: TrainOptions,
    seed: int,
    checkpoint: Path,
    label: str,
) -> Iterator[TrainResult]:
    """Train an adapter for each member, from that in `model` on; then leave one after the other in it.

    Every member has what it would have alone: batches of its own, in the order that `seed` gives, an optimiser, a
    schedule, clipping, a best epoch and an end by `patience`. A step takes the next batch of every member that has one
    left in the epoch. So, without dropout, adapters are those of `train_adapter` up to the order of sums. Dropout and
    SpecAugment draw for all rows at once: what they draw for a member depends on the others. The same members with the
    same seed give the same bytes, interrupted or not.

    Args:
        checkpoint: a file that holds the state of all after every epoch, see `train_adapter`.
        label: shown before the progress bar.

    Yields:
        The result of each member, in order; meanwhile its kept weights are in `model`.

    Raises:
        PqmError: if a member has no training or no dev utterances, its loss is no longer finite, or a trainable
            parameter cannot differ from row to row, see `LearningRows`.
    """
    for member in members:
        _check_not_empty(member.label, member.train, member.dev)
    rows, augment = LearningRows(model), masked if options.spec_augment else None
    learners = [
        _Learner(
            member.label,
            rows.parameters(),
            options,
            Grouped(member.train, options.batch_frames, augment),
            Grouped(member.dev, options.batch_frames),
        )
        for member in members
    ]

    @contextmanager
    def of_rows(learners: Sequence[_Learner], indices: Sequence[int], *, dev: bool) -> Iterator[Sequence[BatchLoss]]:
        """The loss of each learner's batch, of one forward pass over the rows of all."""
        batches = [
            (learner.judged if dev else learner.learned).batch(index)
            for learner, index in zip(learners, indices, strict=True)
        ]
        features = [row for batch, _ in batches for row in batch]
        tokens = [row for _, batch in batches for row in batch]
        sizes = [len(batch) for batch, _ in batches]
        with rows.rows([learner.parameters for learner in learners], sizes):
            yield losses(features, tokens, sizes)

    _Trainer(model, of_rows, options).run(learners, seed, SharedCheckpoint(checkpoint, learners), label)
    for learner in learners:
        learner.restore_best()
        rows.put(learner.parameters)
        yield TrainResult(learner.best_epoch, learner.log)


def _check_not_empty(label: str, train: Sequence[Example], dev: Sequence[Example]) -> None:
    if not train or not dev:
        raise PqmError(f"{label}: {len(train)} training and {len(dev)} dev utterances; both must be there")


class _Learner(TrainingState):
    """A speaker's parameters, batches and log."""

    def __init__(
        self,
        label: str,
        parameters: Mapping[str, nn.Parameter],
        options: TrainOptions,
        learned: Grouped,
        judged: Grouped,
    ) -> None:
        self.optimizer = adam(parameters, options)
        super().__init__(parameters, self.optimizer, options.criterion)
        self.label, self.parameters = label, parameters
        self.learned, self.judged = learned, judged

    def end_step(self, cost: float, options: TrainOptions) -> None:
        """Update the parameters after a batch whose loss is `cost`."""
        if not math.isfinite(cost):
            raise PqmError(f"{self.label}: the loss is no longer finite; use a smaller learning_rate")
        end_step(self.optimizer, options.clip_norm)


class _Losses(Protocol):
    """The loss of the batch of this index of each learner, of its training or its dev utterances."""

    def __call__(
        self, learners: Sequence[_Learner], indices: Sequence[int], *, dev: bool
    ) -> AbstractContextManager[Sequence[BatchLoss]]: ...


@dataclass(frozen=True)
class _Trainer:
    """The network that one or several learners train in, and how they are trained."""

    model: nn.Module
    losses: _Losses
    options: TrainOptions

    def run(
        self,
        learners: Sequence[_Learner],
        seed: int,
        checkpoint: Checkpoint | SharedCheckpoint,
        label: str,
        watch: Callable[[int, int], None] | None = None,
    ) -> None:
        """Train all to their ends."""
        options = self.options
        if not checkpoint.resume():
            for learner, judged in zip(learners, self._judge(learners), strict=True):
                learner.take_in(Epoch(0, 0.0, 0.0, *judged))
            checkpoint.write()
        first = max(len(learner.log) for learner in learners)
        n_steps = max(len(learner.learned) for learner in learners)
        with _Bar(watch, options.epochs * n_steps, (first - 1) * n_steps, label) as bar:
            for epoch in range(first, options.epochs + 1):
                learning = [learner for learner in learners if not learner.stale(options.patience)]
                if not learning:
                    break
                totals = self._learn(learning, epoch, seed + epoch, bar)
                for learner, total, judged in zip(learning, totals, self._judge(learning), strict=True):
                    rate = options.rate(epoch, 0)
                    learner.take_in(Epoch(epoch, rate, total / learner.learned.n_utterances, *judged))
                checkpoint.write()
                if len(learners) == 1:
                    bar.set_postfix_str(learners[0].log[-1].summary())

    def _learn(self, learners: Sequence[_Learner], epoch: int, seed: int, bar: Bar) -> list[float]:
        """One pass over the batches of all, in an order and with a dropout that `seed` alone decides.

        Returns:
            The sum of losses of each.
        """
        torch.manual_seed(seed)
        set_training_mode(self.model, network_dropout=self.options.network_dropout)
        orders = [shuffled(len(learner.learned), seed) for learner in learners]
        totals = [0.0] * len(learners)
        for step in range(max(map(len, orders))):
            now = [place for place, order in enumerate(orders) if step < len(order)]
            for place in now:
                begin_step(learners[place].optimizer, self.options.rate(epoch, step / len(orders[place])))
            indices = [orders[place][step] for place in now]
            # The backward pass, too, within: layers that save memory compute again in it.
            with self.losses([learners[place] for place in now], indices, dev=False) as found:
                torch.stack([loss.total / loss.n_utterances for loss in found]).sum().backward()
            costs = torch.stack([loss.total.detach() for loss in found]).tolist()
            for place, cost in zip(now, costs, strict=True):
                learners[place].end_step(cost, self.options)
                totals[place] += cost
            bar.update()
        self.model.eval()
        return totals

    @torch.no_grad()
    def _judge(self, learners: Sequence[_Learner]) -> list[tuple[float, float]]:
        """Dev loss of each in nats per utterance, and its accuracy in [0, 1]."""
        self.model.eval()
        found: list[list[BatchLoss]] = [[] for _ in learners]
        for step in range(max(len(learner.judged) for learner in learners)):
            now = [place for place, learner in enumerate(learners) if step < len(learner.judged)]
            with self.losses([learners[place] for place in now], [step] * len(now), dev=True) as losses:
                for place, loss in zip(now, losses, strict=True):
                    found[place].append(loss)
        return [_judged(losses, learner.judged.n_utterances) for losses, learner in zip(found, learners, strict=True)]


def _judged(losses: Sequence[BatchLoss], n_utterances: int) -> tuple[float, float]:
    total = sum(float(loss.total) for loss in losses)
    return total / n_utterances, sum(loss.n_correct for loss in losses) / sum(loss.n_tokens for loss in losses)


class _Bar(Bar):
    """A progress bar whose steps another function is told of, too."""

    def __init__(self, watch: Callable[[int, int], None] | None, total: int, initial: int, label: str) -> None:
        super().__init__(total=total, initial=initial, desc=label, unit="batch")
        # Of its own: with TQDM_DISABLE tqdm does not count.
        self._done, self._of, self._watch = initial, total, watch
        self._tell()

    def update(self, n: float | None = 1) -> bool | None:
        shown: bool | None = super().update(n)
        self._done += int(n or 0)
        self._tell()
        return shown

    def _tell(self) -> None:
        if self._watch is not None:
            self._watch(self._done, self._of)


def set_training_mode(model: nn.Module, *, network_dropout: bool) -> None:
    """Turn dropout on where an adapter is trained, and leave everything else in evaluation mode.

    Batch statistics must not move, whether the base is frozen or trained on one speaker: `model.train()` would move
    them.
    """
    model.eval()
    learning = {name.partition(".lora_")[0] for name, value in model.named_parameters() if value.requires_grad}
    for name, module in model.named_modules():
        layer, of_adapter, _ = name.partition(".lora_dropout")
        if isinstance(module, nn.Dropout) and (layer in learning if of_adapter else network_dropout):
            module.train()


def adam(parameters: Mapping[str, nn.Parameter], options: TrainOptions) -> torch.optim.Optimizer:
    """An optimiser of all parameters, the up-projections in a group of their own if their learning rate differs."""
    faster = options.lora_plus
    up = [value for name, value in parameters.items() if faster != 1 and ".lora_B." in name]
    rest = [value for name, value in parameters.items() if faster == 1 or ".lora_B." not in name]
    groups: list[dict[str, Any]] = [
        {"params": rest, "faster": 1.0},
        *([{"params": up, "faster": faster}] if up else []),
    ]
    return torch.optim.Adam(groups, lr=options.learning_rate)


def shuffled(n: int, seed: int) -> list[int]:
    """The order of `n` batches in an epoch, which `seed` alone decides."""
    return random.Random(seed).sample(range(n), n)


def begin_step(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate and clear the gradients of the step before."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["faster"]
    optimizer.zero_grad(set_to_none=True)


def end_step(optimizer: torch.optim.Optimizer, clip_norm: float) -> None:
    """Step along the gradients, clipped to the norm `clip_norm`."""
    learning = [value for group in optimizer.param_groups for value in group["params"]]
    nn.utils.clip_grad_norm_(learning, clip_norm)
    optimizer.step()
