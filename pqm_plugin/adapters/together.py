"""Train the adapters of several speakers in the same batches: each learns from its own rows, by its own log."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pqm_plugin.adapters.augment import masked
from pqm_plugin.adapters.batches import BatchLoss, Example, Grouped, LossesFunction
from pqm_plugin.adapters.leaves import LearningRows, Leaves
from pqm_plugin.adapters.options import TrainOptions
from pqm_plugin.adapters.progress import Epoch, SharedProgress, Standing
from pqm_plugin.adapters.steps import adam, begin_step, end_step, shuffled
from pqm_plugin.adapters.train import TrainResult, set_training_mode
from pqm_plugin.errors import PqmError


@dataclass(frozen=True)
class Member:
    """A speaker who learns beside others: how errors call it, and what it learns from and is judged by."""

    label: str
    train: Sequence[Example]
    dev: Sequence[Example]


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
        PqmError: if a member has nothing to train on or to be judged by, its loss is no longer finite, or something
            learns that has no form by row, see `LearningRows`.
    """
    for member in members:
        if not member.train or not member.dev:
            n_train, n_dev = len(member.train), len(member.dev)
            raise PqmError(f"{member.label}: {n_train} training and {n_dev} dev utterances; both must be there")
    rows = LearningRows(model)
    learners = [_Learner(member, rows.leaves(), options) for member in members]
    _Together(model, rows, losses, options).run(learners, seed, SharedProgress(checkpoint, learners), label)
    for learner in learners:
        learner.restore_best()
        rows.put(learner.leaves)
        yield TrainResult(learner.best_epoch, learner.log)


class _Learner(Standing):
    """A member's parameters, batches and log."""

    def __init__(self, member: Member, leaves: Leaves, options: TrainOptions) -> None:
        self.optimizer = adam(leaves, options)
        super().__init__(leaves, self.optimizer, options.criterion)
        self.label, self.leaves = member.label, leaves
        self.learned = Grouped(member.train, options.batch_frames, masked if options.spec_augment else None)
        self.judged = Grouped(member.dev, options.batch_frames)
        self.n_train, self.n_dev = len(member.train), len(member.dev)

    def end_step(self, cost: float, options: TrainOptions) -> None:
        """Learn from a batch whose loss is `cost`."""
        if not math.isfinite(cost):
            raise PqmError(f"{self.label}: the loss is no longer finite; use a smaller learning_rate")
        end_step(self.optimizer, options.clip_norm)


@dataclass(frozen=True)
class _Together:
    """The network that learners share, and how they learn."""

    model: nn.Module
    rows: LearningRows
    losses: LossesFunction
    options: TrainOptions

    def run(self, learners: Sequence[_Learner], seed: int, progress: SharedProgress, label: str) -> None:
        """Train all to their ends."""
        options = self.options
        if not progress.resume():
            for learner, judged in zip(learners, self._judge(learners), strict=True):
                learner.take_in(Epoch(0, 0.0, 0.0, *judged))
            progress.write()
        first = max(len(learner.log) for learner in learners)
        n_steps = max(len(learner.learned) for learner in learners)
        with tqdm(total=options.epochs * n_steps, initial=(first - 1) * n_steps, desc=label, unit="batch") as bar:
            for epoch in range(first, options.epochs + 1):
                learning = [learner for learner in learners if not learner.stale(options.patience)]
                if not learning:
                    break
                totals = self._learn(learning, epoch, seed + epoch, bar)
                for learner, total, judged in zip(learning, totals, self._judge(learning), strict=True):
                    learner.take_in(Epoch(epoch, options.rate(epoch, 0), total / learner.n_train, *judged))
                progress.write()

    def _learn(self, learners: Sequence[_Learner], epoch: int, seed: int, bar: tqdm) -> list[float]:
        """One pass over everybody's batches; gives the sum of losses of each."""
        torch.manual_seed(seed)
        set_training_mode(self.model, network_dropout=self.options.network_dropout)
        orders = [shuffled(len(learner.learned), seed) for learner in learners]
        totals = [0.0] * len(learners)
        for step in range(max(map(len, orders))):
            now = [place for place, order in enumerate(orders) if step < len(order)]
            for place in now:
                begin_step(learners[place].optimizer, self.options.rate(epoch, step / len(orders[place])))
            batches = [learners[place].learned.batch(orders[place][step]) for place in now]
            # The backward pass, too, within: layers that save memory compute again in it.
            with self._losses([learners[place] for place in now], batches) as found:
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
        """Dev loss of each in nats per utterance, and its accuracy."""
        self.model.eval()
        found: list[list[BatchLoss]] = [[] for _ in learners]
        for step in range(max(len(learner.judged) for learner in learners)):
            now = [place for place, learner in enumerate(learners) if step < len(learner.judged)]
            batches = [learners[place].judged.batch(step) for place in now]
            with self._losses([learners[place] for place in now], batches) as losses:
                for place, loss in zip(now, losses, strict=True):
                    found[place].append(loss)
        return [_judged(losses, learner.n_dev) for losses, learner in zip(found, learners, strict=True)]

    @contextmanager
    def _losses(
        self, learners: Sequence[_Learner], batches: Sequence[tuple[list[Tensor], list[Tensor]]]
    ) -> Iterator[Sequence[BatchLoss]]:
        """The loss of each learner's batch, of one forward pass over the rows of all."""
        features = [row for batch, _ in batches for row in batch]
        tokens = [row for _, batch in batches for row in batch]
        sizes = [len(batch) for batch, _ in batches]
        with self.rows.rows([learner.leaves for learner in learners], sizes):
            yield self.losses(features, tokens, sizes)


def _judged(losses: Sequence[BatchLoss], n_utterances: int) -> tuple[float, float]:
    total = sum(float(loss.total) for loss in losses)
    return total / n_utterances, sum(loss.n_correct for loss in losses) / sum(loss.n_tokens for loss in losses)
