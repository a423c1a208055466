"""Train what learns in a network, mostly an adapter; the same seed gives the same bytes, interrupted or not."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from pqm_plugin.adapters.batches import Batches, Example, LossFunction, Memory, Preparation
from pqm_plugin.adapters.options import TrainOptions
from pqm_plugin.adapters.progress import Epoch, Progress
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
) -> TrainResult:
    """Train what is trainable in `model` and leave its best epoch in it.

    Args:
        checkpoint: a file that holds the state after every epoch; if it is there, training goes on from it. It is
            the caller's to delete, once the adapter is saved.
        label: shown before the progress bar.
        prepare: gives the very losses of `loss`, with what does not change from step to step computed once.

    Raises:
        PqmError: if `train` or `dev` is empty, or the loss is no longer finite.
    """
    if not train or not dev:
        raise PqmError(f"{label}: {len(train)} training and {len(dev)} dev utterances; both must be there")
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    optimizer = torch.optim.Adam(parameters.values(), lr=options.learning_rate)
    progress = Progress(checkpoint, parameters, optimizer, options.criterion)
    memory = Memory()
    learned, judged = (Batches(split, options.batch_frames, loss, prepare, memory) for split in (train, dev))
    if not progress.resume():
        progress.add(Epoch(0, 0.0, 0.0, *_evaluate(model, judged, len(dev))))
    first = len(progress.log)
    with tqdm(total=options.epochs * len(learned), initial=(first - 1) * len(learned), desc=label, unit="batch") as bar:
        for epoch in range(first, options.epochs + 1):
            if progress.stale(options.patience):
                break
            rate = options.learning_rate * options.decay ** (epoch - 1)
            train_loss = _train_epoch(model, learned, optimizer, options, rate, seed + epoch, bar) / len(train)
            progress.add(Epoch(epoch, rate, train_loss, *_evaluate(model, judged, len(dev))))
            bar.set_postfix_str(progress.log[-1].summary())
    progress.restore_best()
    return TrainResult(progress.best_epoch, progress.log)


def _train_epoch(
    model: nn.Module,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    options: TrainOptions,
    rate: float,
    seed: int,
    bar: tqdm,
) -> float:
    """One pass over the batches in an order and with a dropout that `seed` alone decides; gives the sum of losses."""
    torch.manual_seed(seed)
    order = random.Random(seed).sample(range(len(batches)), len(batches))
    for group in optimizer.param_groups:
        group["lr"] = rate
    set_training_mode(model, network_dropout=options.network_dropout)
    total = 0.0
    for index in order:
        batch = batches.loss(index)
        if not torch.isfinite(batch.total):
            raise PqmError(f"{bar.desc}: the loss is no longer finite; use a smaller learning_rate")
        optimizer.zero_grad(set_to_none=True)
        (batch.total / batch.n_utterances).backward()
        nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], options.clip_norm)
        optimizer.step()
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
