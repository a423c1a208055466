"""Train what learns in a network, mostly an adapter; the same seed gives the same bytes, interrupted or not."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from pqm_plugin.adapters.augment import masked
from pqm_plugin.adapters.batches import Batches, Example, LossFunction, Memory, Preparation
from pqm_plugin.adapters.options import TrainOptions
from pqm_plugin.adapters.progress import Epoch, Progress
from pqm_plugin.adapters.steps import adam, begin_step, end_step, shuffled
from pqm_plugin.errors import PqmError


@dataclass(frozen=True)
class TrainResult:
    """The kept epoch and one row an epoch; the kept weights are in the model."""

    best_epoch: int
    log: list[Epoch]


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
    if not train or not dev:
        raise PqmError(f"{label}: {len(train)} training and {len(dev)} dev utterances; both must be there")
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    optimizer = adam(parameters, options)
    progress = Progress(checkpoint, parameters, optimizer, options.criterion)
    memory = Memory()
    augment = masked if options.spec_augment else None
    learned = Batches(train, options.batch_frames, loss, prepare, memory, augment)
    judged = Batches(dev, options.batch_frames, loss, prepare, memory)
    if not progress.resume():
        progress.add(Epoch(0, 0.0, 0.0, *_evaluate(model, judged, len(dev))))
    first = len(progress.log)
    with _Bar(watch, options.epochs * len(learned), (first - 1) * len(learned), label) as bar:
        for epoch in range(first, options.epochs + 1):
            if progress.stale(options.patience):
                break
            train_loss = _train_epoch(model, learned, optimizer, options, epoch, seed + epoch, bar) / len(train)
            progress.add(Epoch(epoch, options.rate(epoch, 0), train_loss, *_evaluate(model, judged, len(dev))))
            bar.set_postfix_str(progress.log[-1].summary())
    progress.restore_best()
    return TrainResult(progress.best_epoch, progress.log)


class _Bar(tqdm):
    """A progress bar that another place is told of, too."""

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


def _train_epoch(
    model: nn.Module,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    options: TrainOptions,
    epoch: int,
    seed: int,
    bar: tqdm,
) -> float:
    """One pass over the batches in an order and with a dropout that `seed` alone decides; gives the sum of losses."""
    torch.manual_seed(seed)
    order = shuffled(len(batches), seed)
    set_training_mode(model, network_dropout=options.network_dropout)
    total = 0.0
    for done, index in enumerate(order):
        begin_step(optimizer, options.rate(epoch, done / len(order)))
        batch = batches.loss(index)
        if not torch.isfinite(batch.total):
            raise PqmError(f"{bar.desc}: the loss is no longer finite; use a smaller learning_rate")
        (batch.total / batch.n_utterances).backward()
        end_step(optimizer, options.clip_norm)
        total += float(batch.total.detach())
        bar.update()
    model.eval()
    return total


def set_training_mode(model: nn.Module, *, network_dropout: bool) -> None:
    """Turn dropout on where an adapter learns, and leave everything else in evaluation mode.

    Batch statistics must not move, frozen as the base is or heard from one speaker: `model.train()` would move them.
    """
    model.eval()
    learning = {name.partition(".lora_")[0] for name, value in model.named_parameters() if value.requires_grad}
    for name, module in model.named_modules():
        layer, of_adapter, _ = name.partition(".lora_dropout")
        if isinstance(module, nn.Dropout) and (layer in learning if of_adapter else network_dropout):
            module.train()


def _evaluate(model: nn.Module, batches: Batches, n_utterances: int) -> tuple[float, float]:
    model.eval()
    total, correct, tokens = 0.0, 0, 0
    with torch.no_grad():
        for index in range(len(batches)):
            result = batches.loss(index)
            total += float(result.total)
            correct += result.n_correct
            tokens += result.n_tokens
    return total / n_utterances, correct / tokens
