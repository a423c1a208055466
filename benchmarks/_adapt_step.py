"""What a step of adaptation costs an utterance, by how many utterances share it: what one more in a batch can bring."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import CONFIG, Clip, ratios, spread, turns
from pqm_plugin.adapters.lora import attach
from pqm_plugin.adapters.train import set_training_mode
from pqm_plugin.models.families import family_of
from pqm_plugin.models.interface import Recognizer
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.models.replay import training_loss
from pqm_plugin.stages.config import load_config

SAMPLE_RATE = 16000


def by_batch(
    model: Path, clips: Sequence[Clip], sizes: Mapping[float, Sequence[int]], repeats: int, device: str = "cpu"
) -> dict[str, Any]:
    """Milliseconds an utterance of forward and backward pass with one adapter, by seconds of speech and batch size.

    One adapter for all is the least that a batch can cost: rows of several speakers, each with its own, cost more.

    Args:
        clips: what utterances are cut from, in turn; shorter ones are passed over.
        sizes: for each length in seconds the batch sizes, upwards; `over_most` is over the last.
    """
    recognizer = family_of(model).load_float(model, SearchOptions(), device)
    config = load_config(CONFIG)
    lora = config.lora
    targets = recognizer.adapter_targets(lora.targets) if isinstance(lora.targets, str) else list(lora.targets)
    adapted = attach(recognizer.network, targets, lora.rank, lora.alpha, lora.dropout)
    set_training_mode(adapted, network_dropout=config.adapt.network_dropout)
    found: dict[str, Any] = {}
    for seconds, wanted in sizes.items():
        examples = cut(recognizer, clips, seconds)
        batches = {n: [examples[place % len(examples)] for place in range(n)] for n in wanted}
        took = turns({str(n): partial(step, recognizer, adapted, one) for n, one in batches.items()}, repeats, device)
        each = {name: [1000 * one / int(name) for one in runs] for name, runs in took.items()}
        most = each[str(wanted[-1])]
        found[f"{seconds:g}"] = {
            name: {"ms": spread(one, 1), "over_most": spread(ratios(one, most), 2)} for name, one in each.items()
        }
    return {"batch_frames": config.adapt.batch_frames, "by_seconds": found}


def cut(recognizer: Recognizer, clips: Sequence[Clip], seconds: float) -> list[tuple[Tensor, Tensor]]:
    """Features of the first `seconds` of each clip, and as many of its tokens as so much of it has.

    Raises:
        ValueError: if all are shorter.
    """
    made = []
    for clip in clips:
        if clip.seconds < seconds:
            continue
        tokens = recognizer.token_ids(clip.text)
        n_tokens = max(1, int(len(tokens) * seconds / clip.seconds))
        made.append((recognizer.features(clip.samples[: round(seconds * SAMPLE_RATE)]), tokens[:n_tokens]))
    if not made:
        raise ValueError(f"no clip has {seconds:g} seconds")
    return made


def step(recognizer: Recognizer, adapted: nn.Module, batch: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Forward and backward pass of a batch; the optimiser, which takes next to nothing, is left out."""
    torch.manual_seed(0)
    adapted.zero_grad(set_to_none=True)
    loss = training_loss(recognizer, [features for features, _ in batch], [tokens for _, tokens in batch])
    (loss.total / len(batch)).backward()  # type: ignore[no-untyped-call]
