"""What a step of adaptation with the batches of several readers in one takes, beside a step for each of them."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.common import ratios, spread, turns
from pqm_plugin.adapters.bank import LearningRows
from pqm_plugin.adapters.batches import Example, batches_by_length
from pqm_plugin.adapters.options import TrainOptions
from pqm_plugin.adapters.train import adam, begin_step, end_step, shuffled
from pqm_plugin.models.interface import Recognizer
from pqm_plugin.models.replay import losses_by_group, training_loss

N_READERS = 4


def mixed(
    recognizer: Recognizer,
    adapted: nn.Module,
    by_reader: Sequence[Sequence[Example]],
    options: TrainOptions,
    repeats: int,
    device: str = "cpu",
) -> dict[str, Any]:
    """Milliseconds of a step of the first readers, forward, backward and Adam: one after another, and in one batch.

    The batches that are timed are of utterances that are short among each reader's, which padding makes up to one
    length: `padded` frames of `frames`. `epoch` says the same of stage 5, where batches come in orders of their own.

    Args:
        adapted: the network with the adapter that all start from, its dropout at work.
        by_reader: what each learns from.
    """
    readers = [_batches(found, options.batch_frames) for found in by_reader[:N_READERS]]
    batches = [of_reader[len(of_reader) // 4] for of_reader in readers]
    separate, together = _separate(recognizer, adapted, options), _together(recognizer, adapted, options, len(batches))
    ways = {"alone": partial(separate, batches), "mixed": partial(together, batches)}
    turns(ways, 1, device)  # warms up
    took = turns(ways, repeats, device)
    found = {name: {"ms": spread([1000 * one for one in runs], 1)} for name, runs in took.items()}
    about = {"readers": len(batches), "frames": [_frames([batch]) for batch in batches], "padded": _frames(batches)}
    return {**about, **found, "speedup": spread(ratios(took["alone"], took["mixed"]), 2), "epoch": epoch(readers)}


def epoch(readers: Sequence[Sequence[Sequence[Example]]]) -> dict[str, float]:
    """Steps of an epoch of readers one after another and together, and how many times more frames padding makes."""
    orders = [shuffled(len(batches), 1) for batches in readers]
    steps = [
        [batches[order[place]] for batches, order in zip(readers, orders, strict=True) if place < len(order)]
        for place in range(max(map(len, orders)))
    ]
    own = sum(_frames([batch]) for step in steps for batch in step)
    padded = round(sum(map(_frames, steps)) / own, 2)
    return {"steps_alone": sum(map(len, steps)), "steps_mixed": len(steps), "padded_over_own": padded}


def _batches(examples: Sequence[Example], batch_frames: int) -> list[list[Example]]:
    """From the shortest utterances to the longest."""
    return [[examples[place] for place in batch] for batch in batches_by_length(examples, batch_frames)]


def _frames(batches: Sequence[Sequence[Example]]) -> int:
    """Of batches that are computed as one, padding included."""
    every = [one for batch in batches for one in batch]
    return max(len(one.features) for one in every) * len(every)


def _separate(recognizer: Recognizer, adapted: nn.Module, options: TrainOptions) -> Any:
    optimizer = adam({name: one for name, one in adapted.named_parameters() if one.requires_grad}, options)

    def steps(batches: Sequence[Sequence[Example]]) -> None:
        torch.manual_seed(0)
        for batch in batches:
            begin_step(optimizer, options.learning_rate)
            loss = training_loss(recognizer, [one.features for one in batch], [one.tokens for one in batch])
            (loss.total / len(batch)).backward()  # type: ignore[no-untyped-call]
            end_step(optimizer, options.clip_norm)

    return steps


def _together(recognizer: Recognizer, adapted: nn.Module, options: TrainOptions, n: int) -> Any:
    rows, losses = LearningRows(adapted), losses_by_group(recognizer)
    readers = [rows.parameters() for _ in range(n)]
    optimizers = [adam(reader, options) for reader in readers]

    def step(batches: Sequence[Sequence[Example]]) -> None:
        torch.manual_seed(0)
        for optimizer in optimizers:
            begin_step(optimizer, options.learning_rate)
        every, sizes = [one for batch in batches for one in batch], [len(batch) for batch in batches]
        with rows.rows(readers, sizes):
            found = losses([one.features for one in every], [one.tokens for one in every], sizes)
            torch.stack([loss.total / loss.n_utterances for loss in found]).sum().backward()  # type: ignore[no-untyped-call]
        for optimizer in optimizers:
            end_step(optimizer, options.clip_norm)

    return step
