"""How many speakers an hour stage 5 adapts, by workers, and what a speaker costs beside its training.

`python benchmarks/speakers.py --out FILE` makes a corpus of noise and a Conformer of 30,000 weights in a folder of its
own, so that next to all there is to measure is overhead. It prints what it measures and writes it as JSON.
"""

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pqm_plugin.files import write_json
from pqm_plugin.processes import share_cores
from pqm_plugin.stages import run_stage
from pqm_plugin.stages.common.provenance import provenance
from pqm_plugin.stages.recipe import Recipe
from tests.tiny import make_tiny_conformer

CONFIG = """
quantize: {keep: [depthwise_conv]}
lora: {rank: 1, alpha: 4, max_fraction: 0.05}
pretrain: {epochs: 2, learning_rate: 0.01}
adapt: {epochs: 2, learning_rate: 0.01}
"""
TEXTS = ("GO ON", "STOP NOW", "WHO IS IT", "A CAT", "THE DOG RAN")
N_SAMPLES = 8000


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--few", type=int, default=100, help="speakers of one measurement of the rate (default 100)")
    parser.add_argument("--many", type=int, default=1000, help="speakers for the overhead (default 1000)")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each rate (default 3)")
    parser.add_argument("--backends", default="local", help="local, slurm, or 'local slurm' (default local)")
    wanted = parser.parse_args()
    share_cores()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory(prefix="pqm_bench_") as scratch:
        recipe = prepare(Path(scratch), wanted.many)
        few = tuple(sorted(path.name for path in (recipe.corpus / "target").iterdir()))[: wanted.few]
        # Of now: the checkout may have changed when it has ended.
        meta = provenance(recipe) | {"command": " ".join(["python", "benchmarks/speakers.py", *sys.argv[1:]])}
        load_before = os.getloadavg()
        measured = {
            "rates": rates(dataclasses.replace(recipe, speakers=few), wanted.repeats, wanted.backends.split()),
            "overhead": overhead(recipe, wanted.many),
        }
    load = {"before": load_before, "after": os.getloadavg()}
    write_json(wanted.out, {"meta": meta, "load_average": load, **measured})
    print(json.dumps(measured, indent=2))


def prepare(folder: Path, n: int) -> Recipe:
    """A recipe that has been run up to stage 4, over `n` target speakers of five utterances of half a second."""
    noise = np.random.default_rng(0)
    for set_name, speakers in (("target", range(10000, 10000 + n)), ("sat", range(3))):
        for speaker in speakers:
            place = folder / "corpus" / set_name / str(speaker) / "1"
            place.mkdir(parents=True)
            lines = []
            for number, text in enumerate(TEXTS):
                name = f"{speaker}-1-{number:04d}"
                samples = noise.integers(-3000, 3000, N_SAMPLES, dtype=np.int16)
                soundfile.write(place / f"{name}.flac", samples, 16000)
                lines.append(f"{name} {text}\n")
            (place / f"{speaker}-1.trans.txt").write_text("".join(lines))
    config = folder / "pqm.yaml"
    config.write_text(CONFIG)
    base = make_tiny_conformer(folder / "tiny_conformer")
    recipe = Recipe(
        corpus=folder / "corpus",
        base=str(base),
        target_set="target",
        sat_sets=("sat",),
        datadir=folder / "data",
        expdir=folder / "exp",
        pqm_config=config,
        systems=("nf4+speaker",),
        slurm_time="60",
    )
    for stage in ("data", "base", "quantize", "pretrain"):
        run_stage(stage, recipe)
    return recipe


@contextlib.contextmanager
def timed(into: list[float]) -> Iterator[None]:
    """Note how long the block takes, in seconds."""
    start = time.perf_counter()
    yield
    into.append(time.perf_counter() - start)


def adapt(recipe: Recipe) -> float:
    """Seconds of stage 5 from nothing."""
    shutil.rmtree(recipe.packed_dir / "speakers", ignore_errors=True)
    took: list[float] = []
    with timed(took):
        run_stage("adapt", recipe)
    return took[0]


def rates(recipe: Recipe, repeats: int, backends: list[str]) -> dict[str, Any]:
    """Speakers an hour on one and on two workers, in turns, so that what else the machine does meets both."""
    adapt(dataclasses.replace(recipe, speakers=recipe.speakers[:2]))
    took: dict[str, dict[int, list[float]]] = {backend: {1: [], 2: []} for backend in backends}
    for _ in range(repeats):
        for backend in backends:
            for workers in (1, 2):
                took[backend][workers].append(adapt(dataclasses.replace(recipe, nj=workers, cmd_backend=backend)))
    found: dict[str, Any] = {"speakers": len(recipe.speakers)}
    for backend, by_workers in took.items():
        per_hour = {
            workers: [3600 * len(recipe.speakers) / seconds for seconds in runs] for workers, runs in by_workers.items()
        }
        medians = {workers: statistics.median(runs) for workers, runs in per_hour.items()}
        found[backend] = {
            "speakers_per_hour": {str(workers): [round(one) for one in runs] for workers, runs in per_hour.items()},
            "median": {str(workers): round(one) for workers, one in medians.items()},
            "ratio_2_to_1": round(medians[2] / medians[1], 2),
        }
    return found


def overhead(recipe: Recipe, n: int) -> dict[str, Any]:
    """Seconds a speaker: all of stage 5 with its tiny training, and of stage 5 when there is nothing to do."""
    everything = adapt(dataclasses.replace(recipe, nj=2))
    again: list[float] = []
    with timed(again):
        run_stage("adapt", recipe)
    (recipe.packed_dir / "speakers" / "index.tsv").unlink()
    without_index: list[float] = []
    with timed(without_index):
        run_stage("adapt", recipe)
    return {
        "speakers": n,
        "workers": 2,
        "stage_5_ms_a_speaker": round(1000 * everything / n, 2),
        "nothing_to_do_ms_a_speaker": round(1000 * again[0] / n, 3),
        "nothing_to_do_without_index_ms_a_speaker": round(1000 * without_index[0] / n, 3),
    }


if __name__ == "__main__":
    main()
