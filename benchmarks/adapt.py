"""How long stage 5 takes for one and for ten speakers, against a plain peft loop over the same steps.

`python benchmarks/adapt.py --out FILE` adapts ten readers of real speech, from a speaker-independent adapter (of one
epoch), in a folder of its own: by stage 5 with one process of one thread a core, all layers learning or the uppermost
alone, and by the plain loop with one thread a core. Each is timed as a command: a fresh process, the
imports and the opening of the base included. The plain loop runs before and after, half of the speakers each, so that
what else the machine does meets both; what it takes beside its speakers is counted once. `speedup` is that of the
fastest way whose mean dev accuracy is the plain loop's or better, but for `ACCURACY_SLACK`; `way` names it, and the
others stand beside. `wer` is that of each way's adapters on the dev utterances. Last, on one thread, what a step costs
an utterance by how many share it (`step`): what could be had by filling a speaker's batches with other speakers'
utterances, which stage 5 does not do. About eleven minutes on two idle cores.
"""

import dataclasses
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # what every process of a recipe has, see pqm_plugin/processes.py

import torch

from benchmarks._adapt_plain import plain
from benchmarks._adapt_step import by_batch
from benchmarks.common import ROOT, meta, middling, parse, parser, readers_clips, seconds_of, write
from pqm_plugin.adapters.files import read_info
from pqm_plugin.errors import PqmError
from pqm_plugin.metrics.wer import counts_of, total
from pqm_plugin.processes import n_cores
from pqm_plugin.stages import run_stage
from pqm_plugin.stages.common.material import Material
from pqm_plugin.stages.recipe import Recipe

ACCURACY_SLACK = 0.001
"""Share of teacher-forced dev tokens that sums rounded in another order may cost."""
CONFIG = """
quantize: {{block_size: 32, keep: [depthwise_conv], calibrate: 48}}
lora: {{targets: attention, rank: 4, alpha: 16, dropout: 0.1}}
pretrain: {{epochs: 1, learning_rate: 2.0e-3, schedule: linear, criterion: loss}}
adapt: {{epochs: {epochs}, learning_rate: {rate}, decay: 0.8, criterion: loss, top_layers: {top_layers}}}
"""
SIZES: Mapping[float, Sequence[int]] = {1: (1, 5, 10, 20, 160), 5: (1, 4, 32)}
"""Batch sizes by seconds of an utterance: one, some, what fills a batch of the recipe, and eight speakers' of these."""
RATES = {"all": 1.0e-3, "top": 2.0e-3}
"""Learning rates: that of the recipe, and twice as much where fewer layers learn."""


def main() -> None:
    """Measure and write."""
    options = parser(
        __doc__,
        speakers=(10, 2, "readers"),
        epochs=(3, 1, "epochs of every speaker, none is left out"),
        top_layers=(3, 3, "layers that learn in the second way"),
    )
    wanted = parse(options)
    logging.disable(logging.INFO)
    about = meta(0, n_cores(), wanted.device)
    with tempfile.TemporaryDirectory(prefix="pqm_bench_") as scratch:
        recipe = prepare(Path(scratch), wanted.speech, wanted.model, wanted.speakers, wanted.epochs)
        recipe = dataclasses.replace(recipe, ngpu=int(wanted.device == "cuda"))
        measured = measure(recipe, wanted.epochs, wanted.top_layers)
    torch.set_num_threads(1)
    sizes = {seconds: counts[:2] for seconds, counts in SIZES.items()} if wanted.quick else SIZES
    readers = readers_clips(wanted.speech, wanted.speakers, middling)
    step = by_batch(wanted.model, readers, sizes, 1 if wanted.quick else 3, wanted.device)
    write(wanted, about, adapt=measured, step=step)


def prepare(folder: Path, speech: Path, model: Path, n_speakers: int, epochs: int) -> Recipe:
    """A recipe up to its speaker-independent adapter."""
    config = folder / "pqm0.yaml"
    config.write_text(CONFIG.format(epochs=epochs, top_layers=0, rate=RATES["all"]))
    readers = sorted(path.name for path in speech.iterdir() if path.is_dir())
    recipe = Recipe(
        corpus=speech.parent,
        base=str(model),
        target_set=speech.name,
        sat_sets=("train-clean-5",),
        datadir=folder / "data",
        expdir=folder / "exp",
        pqm_config=config,
        systems=("nf4+speaker",),
        nj=n_cores(),
        inference_nj=n_cores(),
        n_threads=n_cores(),
    )
    for stage in ("data", "base", "quantize", "pretrain"):
        run_stage(stage, recipe)
    return dataclasses.replace(recipe, speakers=tuple(readers[:n_speakers]))


def measure(recipe: Recipe, epochs: int, top_layers: int) -> dict[str, Any]:
    """Seconds and dev accuracy of each way, and how many times faster than the plain loop each is."""
    config = recipe.expdir.parent / "pqm1.yaml"
    config.write_text(CONFIG.format(epochs=epochs, top_layers=top_layers, rate=RATES["top"]))
    top = f"top_{top_layers}_layers"
    ways = {"all_layers": recipe, top: dataclasses.replace(recipe, pqm_config=config)}
    half = len(recipe.speakers) // 2
    earlier = PlainRun.of(recipe, recipe.speakers[:half])
    ours, wers = {}, {}
    for name, way in ways.items():
        ours[name] = stage_5(way)
        wers[name] = wer(way)
    first = dataclasses.replace(recipe, speakers=recipe.speakers[:1], nj=1)
    ours_one = {top: stage_5(dataclasses.replace(first, pqm_config=config))}
    loop = earlier.and_also(PlainRun.of(recipe, recipe.speakers[half:]))
    several, one = {"plain": loop.summary(recipe.speakers)}, {"plain": loop.summary(first.speakers)}
    for found, by_way in ((several, ours), (one, ours_one)):
        for name, (took, accuracy) in by_way.items():
            found[name] = _summary(took, accuracy) | {"speedup": round(found["plain"]["s"] / took, 2)}
    for name, found in wers.items():
        several[name]["wer"] = found
    material = Material(recipe)
    utterances = [len(material.utterances("train", speaker)) for speaker in recipe.speakers]
    facts = {"epochs": epochs, "threads_of_plain": n_cores(), "utterances_a_speaker": statistics.mean(utterances)}
    facts |= {"learning_rates": RATES}
    return facts | {f"speakers{len(recipe.speakers)}": chosen(several), "speakers1": chosen(one)}


def chosen(ways: Mapping[str, Any]) -> dict[str, Any]:
    """The ways, and before them the speed-up of the fastest that loses nothing; 0 where all do."""
    enough = ways["plain"]["dev_accuracy"] - ACCURACY_SLACK
    fair = [name for name, way in ways.items() if name != "plain" and way["dev_accuracy"] >= enough]
    best = max(fair, key=lambda name: ways[name]["speedup"], default="")
    return {"speedup": ways[best]["speedup"] if best else 0.0, "way": best, **ways}


def _summary(took: float, accuracy: Mapping[str, float]) -> dict[str, Any]:
    return {"s": round(took, 1), "dev_accuracy": round(statistics.mean(accuracy.values()), 4)}


@dataclasses.dataclass(frozen=True)
class PlainRun:
    """Of the plain loop: seconds beside all speakers, and of each speaker seconds and dev accuracy."""

    beside_s: float
    took: Mapping[str, float]
    accuracy: Mapping[str, float]

    @classmethod
    def of(cls, recipe: Recipe, speakers: tuple[str, ...]) -> "PlainRun":
        """The loop in a process of its own."""
        whole, (took, accuracy) = fresh(plain, recipe, speakers, n_cores())
        return cls(whole - sum(took.values()), took, accuracy)

    def and_also(self, other: "PlainRun") -> "PlainRun":
        """As if one process had done the speakers of both."""
        beside_s = statistics.mean((self.beside_s, other.beside_s))
        return PlainRun(beside_s, {**self.took, **other.took}, {**self.accuracy, **other.accuracy})

    def summary(self, speakers: tuple[str, ...]) -> dict[str, Any]:
        """Of some speakers alone."""
        took = self.beside_s + sum(self.took[speaker] for speaker in speakers)
        return _summary(took, {speaker: self.accuracy[speaker] for speaker in speakers})


def stage_5(recipe: Recipe) -> tuple[float, dict[str, float]]:
    """Seconds of the whole stage, all its processes included, and dev accuracies."""
    root = recipe.packed_dir / "speakers"
    shutil.rmtree(root, ignore_errors=True)
    took = seconds_of(lambda: command("adapt", recipe))
    infos = {speaker: read_info(root / speaker) for speaker in recipe.speakers}
    return took, {name: info.log[info.best_epoch]["dev_accuracy"] for name, info in infos.items()}


def command(stage: str, recipe: Recipe) -> None:
    """The stage as its users run it.

    Raises:
        PqmError: if it fails, with what it said last.
    """
    values = {field.name: (getattr(recipe, field.name), field.default) for field in dataclasses.fields(recipe)}
    words = [f"--{name}={_word(value)}" for name, (value, default) in values.items() if value != default]
    done = subprocess.run(
        [sys.executable, "-m", "pqm_plugin", stage, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise PqmError(f"stage {stage} ended with status {done.returncode}: {done.stderr[-500:]}")


def _word(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def wer(recipe: Recipe) -> float:
    """Of the readers' dev utterances, with the adapters that are there now."""
    recipe = dataclasses.replace(recipe, split="dev")
    run_stage("decode", recipe)
    folder = recipe.decode_dir(recipe.systems[0], recipe.decoded(recipe.target_set, recipe.split))
    references, hypotheses = (
        [line.rpartition("(")[0].strip() for line in (folder / name).read_text(encoding="utf-8").splitlines()]
        for name in ("ref.trn", "hyp.trn")
    )
    return round(total(counts_of(references, hypotheses), "utterances").rate, 4)


def fresh[T](call: Callable[..., T], *arguments: Any) -> tuple[float, T]:
    """Seconds from the start of a process to its end, and what `call` gave in it."""
    start = time.perf_counter()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found = pool.submit(call, *arguments).result()
    return time.perf_counter() - start, found


if __name__ == "__main__":
    main()
