"""What a step of adaptation costs an utterance by how many share it: what one more in a batch can bring.

`python benchmarks/step.py --out FILE` times forward and backward pass with one adapter on one thread, of utterances cut
to one length, for batches of several sizes, which take turns after one that is not counted. One adapter for all is the
least that a batch can cost: rows of several speakers, each with its own, cost more. So it bounds what stage 5, whose
batches are of one speaker, could gain by mixing speakers; and only in batches that a speaker's own speech does not
fill. `batches` says how many of these there are among those that stage 5 makes of ten readers, and `mixed` what
batches of four readers take one after another and in one, each with its own adapter. About a minute.
"""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor, nn

from benchmarks.common import (
    CONFIG,
    SAMPLE_RATE,
    Clip,
    meta,
    middling,
    parse,
    parser,
    ratios,
    readers,
    readers_clips,
    spread,
    turns,
    write,
)
from benchmarks.mixing import mixed
from pqm_plugin.adapters.batches import Example, batches_by_length
from pqm_plugin.adapters.train import set_training_mode
from pqm_plugin.engine.learn import attach_lora
from pqm_plugin.models.families import family_of
from pqm_plugin.models.interface import Recognizer
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.models.replay import training_loss
from pqm_plugin.stages import run_stage
from pqm_plugin.stages.common.material import Material, examples
from pqm_plugin.stages.config import load_config
from pqm_plugin.stages.recipe import Recipe

SIZES: Mapping[float, Sequence[int]] = {1: (1, 5, 20, 80), 5: (1, 4, 16)}
"""Batch sizes by seconds of an utterance: one, some, what fills a batch of the recipe, and several speakers' such."""
FULL = 0.9
"""A batch of at least so much of the frames that it may have counts as filled."""


def main() -> None:
    """Measure and write."""
    options = parser(__doc__, speakers=(10, 2, "readers"), repeats=(2, 1, "turns"))
    wanted = parse(options)
    torch.set_num_threads(1)
    about = meta(0, 1, wanted.device)
    sizes = {seconds: counts[:2] for seconds, counts in SIZES.items()} if wanted.quick else SIZES
    recognizer = family_of(wanted.model).load_float(wanted.model, SearchOptions(), wanted.device)
    with tempfile.TemporaryDirectory(prefix="pqm_bench_") as scratch:
        by_reader = learned_from(recognizer, wanted.model, wanted.speech, wanted.speakers, Path(scratch))
    adapt = load_config(CONFIG).adapt
    clips = readers_clips(wanted.speech, wanted.speakers, middling)
    adapted = with_adapter(recognizer)
    timed = by_batch(recognizer, adapted, clips, sizes, wanted.repeats, wanted.device)
    together = mixed(recognizer, adapted, by_reader, adapt, wanted.repeats, wanted.device)
    write(wanted, about, step={"batches": shares(by_reader, adapt.batch_frames), **timed, "mixed": together})


def learned_from(
    recognizer: Recognizer, model: Path, speech: Path, n_speakers: int, scratch: Path
) -> list[list[Example]]:
    """The readers' training utterances, as stage 5 has them."""
    named = readers(speech, n_speakers)
    recipe = Recipe(
        corpus=speech.parent,
        base=str(model),
        target_set=speech.name,
        speakers=tuple(named),
        datadir=scratch / "data",
        expdir=scratch / "exp",
        pqm_config=CONFIG,
    )
    for stage in ("data", "base"):
        run_stage(stage, recipe)
    material = Material(recipe)
    return [examples(recognizer, material.utterances("train", name), material.fit) for name in named]


def with_adapter(recognizer: Recognizer) -> nn.Module:
    """The network with the recipe's adapter around it, which learns."""
    config = load_config(CONFIG)
    adapted = attach_lora(recognizer, config.lora, config.seed)
    set_training_mode(adapted, network_dropout=config.adapt.network_dropout)
    return adapted


def shares(by_reader: Sequence[Sequence[Example]], batch_frames: int) -> dict[str, Any]:
    """Batches of all readers: how many, and the share of them, and of all frames, that is in those not filled."""
    frames = [
        [
            max(len(found[place].features) for place in batch) * len(batch)
            for batch in batches_by_length(found, batch_frames)
        ]
        for found in by_reader
    ]
    every = [n for of_reader in frames for n in of_reader]
    open_ones = [n for n in every if n < FULL * batch_frames]
    return {
        "readers": len(by_reader),
        "n": len(every),
        "full": FULL,
        "under_filled_share": round(len(open_ones) / len(every), 3),
        "frames_in_under_filled_share": round(sum(open_ones) / sum(every), 3),
    }


def by_batch(
    recognizer: Recognizer,
    adapted: nn.Module,
    clips: Sequence[Clip],
    sizes: Mapping[float, Sequence[int]],
    repeats: int,
    device: str = "cpu",
) -> dict[str, Any]:
    """Milliseconds an utterance, by seconds of speech and batch size.

    Args:
        adapted: see `with_adapter`.
        clips: what utterances are cut from, in turn; shorter ones are passed over.
        sizes: for each length in seconds the batch sizes, upwards; `over_most` is over the last.
    """
    found: dict[str, Any] = {}
    for seconds, wanted in sizes.items():
        examples = cut(recognizer, clips, seconds)
        batches = {n: [examples[place % len(examples)] for place in range(n)] for n in wanted}
        steps = {str(n): partial(step, recognizer, adapted, one) for n, one in batches.items()}
        turns(steps, 1, device)  # warms up
        took = turns(steps, repeats, device)
        each = {name: [1000 * one / int(name) for one in runs] for name, runs in took.items()}
        most = each[str(wanted[-1])]
        found[f"{seconds:g}"] = {
            name: {"ms": spread(one, 1), "over_most": spread(ratios(one, most), 2)} for name, one in each.items()
        }
    return {"batch_frames": load_config(CONFIG).adapt.batch_frames, "by_seconds": found}


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


if __name__ == "__main__":
    main()
