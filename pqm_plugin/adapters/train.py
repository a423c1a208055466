"""Train the adapter of a frozen network; the same seed gives the same bytes, interrupted or not."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from peft import PeftModel
from torch import Tensor, nn
from tqdm import tqdm

from pqm_plugin.adapters.options import TrainOptions
from pqm_plugin.adapters.progress import Epoch, Progress
from pqm_plugin.errors import PqmError


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


LossFunction = Callable[[Sequence[Tensor], Sequence[Tensor]], BatchLoss]


@dataclass(frozen=True)
class TrainResult:
    """The kept epoch and one row an epoch; the kept weights are in the model."""

    best_epoch: int
    log: list[Epoch]


def train_adapter(
    model: PeftModel,
    loss: LossFunction,
    train: Sequence[Example],
    dev: Sequence[Example],
    options: TrainOptions,
    seed: int,
    checkpoint: Path,
    label: str,
) -> TrainResult:
    """Train what is trainable in `model` and leave its best epoch in it.

    Args:
        checkpoint: a file that holds the state after every epoch; if it is there, training goes on from it. It is
            the caller's to delete, once the adapter is saved.
        label: shown before the progress bar.

    Raises:
        PqmError: if `train` or `dev` is empty, or the loss is no longer finite.
    """
    if not train or not dev:
        raise PqmError(f"{label}: {len(train)} training and {len(dev)} dev utterances; both must be there")
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    optimizer = torch.optim.Adam(parameters.values(), lr=options.learning_rate)
    progress = Progress(checkpoint, parameters, optimizer, options.criterion)
    if not progress.resume():
        progress.add(Epoch(0, 0.0, 0.0, *_evaluate(model, loss, dev, options)))
    batches = batches_by_length(train, options.batch_frames)
    first = len(progress.log)
    with tqdm(total=options.epochs * len(batches), initial=(first - 1) * len(batches), desc=label, unit="batch") as bar:
        for epoch in range(first, options.epochs + 1):
            if progress.stale(options.patience):
                break
            rate = options.learning_rate * options.decay ** (epoch - 1)
            train_loss = _train_epoch(model, loss, train, batches, optimizer, options, rate, seed + epoch, bar)
            progress.add(Epoch(epoch, rate, train_loss, *_evaluate(model, loss, dev, options)))
            bar.set_postfix_str(progress.log[-1].summary())
    progress.restore_best()
    return TrainResult(progress.best_epoch, progress.log)


def _train_epoch(
    model: PeftModel,
    loss: LossFunction,
    examples: Sequence[Example],
    batches: Sequence[Sequence[int]],
    optimizer: torch.optim.Optimizer,
    options: TrainOptions,
    rate: float,
    seed: int,
    bar: tqdm,
) -> float:
    """One pass over the batches in an order and with a dropout that `seed` alone decides."""
    torch.manual_seed(seed)
    order = random.Random(seed).sample(range(len(batches)), len(batches))
    for group in optimizer.param_groups:
        group["lr"] = rate
    set_training_mode(model, network_dropout=options.network_dropout)
    total = 0.0
    for index in order:
        chosen = [examples[i] for i in batches[index]]
        batch = loss([e.features for e in chosen], [e.tokens for e in chosen])
        if not torch.isfinite(batch.total):
            raise PqmError(f"{bar.desc}: the loss is no longer finite; use a smaller learning_rate")
        optimizer.zero_grad(set_to_none=True)
        (batch.total / batch.n_utterances).backward()
        nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], options.clip_norm)
        optimizer.step()
        total += float(batch.total.detach())
        bar.update()
    model.eval()
    return total / len(examples)


def set_training_mode(model: nn.Module, *, network_dropout: bool) -> None:
    """Turn dropout on and leave everything else in evaluation mode.

    The base is frozen, so its batch statistics must not move: `model.train()` would move them.
    """
    model.eval()
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and (network_dropout or "lora_dropout" in name):
            module.train()


def _evaluate(
    model: PeftModel, loss: LossFunction, examples: Sequence[Example], options: TrainOptions
) -> tuple[float, float]:
    model.eval()
    total, correct, tokens = 0.0, 0, 0
    with torch.no_grad():
        for batch in batches_by_length(examples, options.batch_frames):
            result = loss([examples[i].features for i in batch], [examples[i].tokens for i in batch])
            total += float(result.total)
            correct += result.n_correct
            tokens += result.n_tokens
    return total / len(examples), correct / tokens


def batches_by_length(examples: Sequence[Example], batch_frames: int) -> list[list[int]]:
    """Group indices of similar length so that no padded batch exceeds `batch_frames`, or holds one alone that does."""
    batches: list[list[int]] = [[]]
    for index in sorted(range(len(examples)), key=lambda i: (len(examples[i].features), i)):
        if batches[-1] and (len(batches[-1]) + 1) * len(examples[index].features) > batch_frames:
            batches.append([])
        batches[-1].append(index)
    return batches
