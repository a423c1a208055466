"""How long stage 5 takes for one and for ten speakers, against a plain peft loop over the same steps.

`python benchmarks/adapt.py --out FILE` adapts ten readers of real speech, from a speaker-independent adapter, in a
folder of its own: by stage 5 with one process of one thread a core, the encoder's uppermost layers learning, and by the
plain loop over all layers with one thread a core. Settings are those of the recipe, its epochs included, but for
`FOR_TIME`, and for the learning rate of the uppermost layers. Each is timed as a command: a fresh process, the imports
and the opening of the base included; one run a way. The plain loop runs before and after, half of the speakers each, so
that what else the machine does meets both; what it takes beside its speakers is counted once. `speedup` is that of the
fastest way whose mean dev accuracy (of teacher-forced tokens) is the plain loop's or better, but for `ACCURACY_SLACK`;
`way` names it. `wer` is that of each way's adapters on the dev utterances, decoded; `speedup_by_words` is that of the
fastest way with no more word errors than the plain loop: both are shown, for they need not agree. Stage 5 with all
layers, which computes what the plain loop computes but for the order of sums and the elements that dropout draws,
follows where fewer layers lose accuracy, or with `--all_layers 1`. The speaker-independent adapter learns from
`SAT_READERS` readers alone. About eight minutes on two idle cores, some four more with all layers.
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

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # what every process of a recipe has, see pqm_plugin/processes.py

from benchmarks._adapt_plain import plain
from benchmarks.common import CONFIG, ROOT, meta, parse, parser, readers, seconds_of, write
from pqm_plugin.adapters.files import read_info
from pqm_plugin.errors import PqmError
from pqm_plugin.metrics.wer import counts_of, total
from pqm_plugin.processes import n_cores
from pqm_plugin.stages import run_stage
from pqm_plugin.stages.adapt import allowed_speech
from pqm_plugin.stages.common.material import Material
from pqm_plugin.stages.config import load_config
from pqm_plugin.stages.recipe import Recipe

ACCURACY_SLACK = 0.001
"""Share of teacher-forced dev tokens that sums rounded in another order may cost."""
MINUTES = 2.5
"""Speech of each reader, of which a third is for dev."""
FOR_TIME: Mapping[str, Any] = {
    "quantize": {"calibrate": 48},
    "pretrain": {"joined_s": 0},
    "adapt_minutes": MINUTES,
}
"""What differs from the recipe's YAML in all ways."""
SAT_SET = "train-clean-5"
SAT_READERS = 6
TOP_RATE = 5.0e-3
"""Learning rate where fewer layers learn; the recipe's is for all.

Of eight readers of `SAT_SET` beyond the first six, after the recipe's six epochs, dev loss is 11.47, 11.48 and 11.64 at
0.003, 0.005 and 0.008, and dev accuracy 0.9478, 0.9519 and 0.9470; with all layers at the recipe's rate they are 11.64
and 0.9501. So 0.005 is the best by what the ways are compared by, and no worse in loss. It had been in use before these
were measured, and had then been seen to keep the accuracy of the ten readers who are timed.
"""
Run = tuple[float, Mapping[str, float]]
"""Seconds, and dev accuracies by speaker."""


def main() -> None:
    """Measure and write."""
    options = parser(
        __doc__,
        speakers=(10, 2, "readers"),
        epochs=(load_config(CONFIG).adapt.epochs, 1, "epochs of every speaker, none is left out"),
        top_layers=(4, 4, "uppermost layers that learn"),
        all_layers=(0, 0, "1 for stage 5 with all layers in any case"),
    )
    wanted = parse(options)
    logging.disable(logging.INFO)
    about = meta(0, n_cores(), wanted.device)
    with tempfile.TemporaryDirectory(prefix="pqm_bench_") as scratch:
        settings = Path(scratch) / "pqm.yaml"
        settings.write_text(changed({**FOR_TIME, "adapt": {"epochs": wanted.epochs}}))
        recipe = prepare(Path(scratch), wanted.speech, wanted.model, settings, wanted.device)
        recipe = dataclasses.replace(recipe, speakers=tuple(readers(wanted.speech, wanted.speakers)))
        measured = measure(recipe, wanted.top_layers, all_layers=bool(wanted.all_layers))
    write(wanted, about, adapt=measured)


def changed(values: Mapping[str, Any]) -> str:
    """The recipe's YAML with other values, in some of its sections or beside these."""
    settings = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    for name, value in values.items():
        settings[name] = settings.get(name, {}) | value if isinstance(value, Mapping) else value
    return yaml.safe_dump(settings)


def prepare(folder: Path, speech: Path, model: Path, settings: Path, device: str) -> Recipe:
    """A recipe up to its speaker-independent adapter."""
    recipe = Recipe(
        corpus=smaller(speech.parent, speech.name, folder / "corpus"),
        base=str(model),
        target_set=speech.name,
        sat_sets=(SAT_SET,),
        datadir=folder / "data",
        expdir=folder / "exp",
        pqm_config=settings,
        systems=("nf4+speaker",),
        nj=n_cores(),
        inference_nj=n_cores(),
        ngpu=int(device == "cuda"),
        n_threads=n_cores(),
    )
    for stage in ("data", "base", "quantize", "pretrain"):
        run_stage(stage, recipe)
    return recipe


def smaller(corpus: Path, target_set: str, out: Path) -> Path:
    """A copy of a corpus in LibriSpeech's layout with one set and, of that for SAT, the first readers."""
    shutil.copytree(corpus / target_set, out / target_set)
    for path in corpus.glob("*.TXT"):
        shutil.copy(path, out)
    for reader in sorted(path for path in (corpus / SAT_SET).iterdir() if path.is_dir())[:SAT_READERS]:
        shutil.copytree(reader, out / SAT_SET / reader.name)
    return out


def measure(recipe: Recipe, top_layers: int, *, all_layers: bool = False) -> dict[str, Any]:
    """Seconds and dev accuracy of each way, and how many times faster than the plain loop each is."""
    top, every = f"top_{top_layers}_layers", "all_layers"
    adapt = recipe.config.adapt
    uppermost = dataclasses.replace(recipe, pqm_config=recipe.expdir.parent / "pqm_top.yaml")
    learned = {"epochs": adapt.epochs, "top_layers": top_layers, "learning_rate": TOP_RATE}
    uppermost.pqm_config.write_text(changed({**FOR_TIME, "adapt": learned}))  # type: ignore[union-attr]
    half = len(recipe.speakers) // 2
    plain_dir = recipe.expdir.parent / "plain"
    earlier = PlainRun.of(recipe, recipe.speakers[:half], plain_dir)
    runs: dict[tuple[str, ...], dict[str, Run]] = {recipe.speakers: {top: stage_5(uppermost)}}
    wers = {top: wer(uppermost)}
    if len(recipe.speakers) > 1:
        alone = dataclasses.replace(uppermost, speakers=recipe.speakers[:1], nj=1)
        runs[alone.speakers] = {top: stage_5(alone)}
    loop = earlier.and_also(PlainRun.of(recipe, recipe.speakers[half:], plain_dir))
    wers["plain"] = wer_with(recipe, plain_dir)
    if all_layers or not summary(runs[recipe.speakers], loop, recipe.speakers)["way"]:
        runs[recipe.speakers][every] = stage_5(recipe)
        wers[every] = wer(recipe)
    found = {f"speakers{len(some)}": summary(ways, loop, some) for some, ways in runs.items()}
    found[f"speakers{len(recipe.speakers)}"] = by_words(found[f"speakers{len(recipe.speakers)}"], wers)
    material = Material(recipe)
    heard = [len(allowed_speech(material, "train", speaker)) for speaker in recipe.speakers]
    facts = {
        "epochs": adapt.epochs,
        "threads_of_plain": n_cores(),
        "utterances_a_speaker": statistics.mean(heard),
        "minutes_a_speaker": MINUTES,
        "sat_readers": SAT_READERS,
        "calibrated_by": FOR_TIME["quantize"]["calibrate"],
        "learning_rates": {"all": adapt.learning_rate, "top": TOP_RATE},
        "schedule": adapt.schedule,
    }
    return facts | found


def summary(runs: Mapping[str, Run], loop: "PlainRun", speakers: tuple[str, ...]) -> dict[str, Any]:
    """All ways of some speakers, the plain loop first, as `chosen` gives them."""
    found = {"plain": loop.summary(speakers)}
    for name, (took, accuracy) in runs.items():
        found[name] = _summary(took, accuracy) | {"speedup": round(found["plain"]["s"] / took, 2)}
    return chosen(found)


def chosen(ways: Mapping[str, Any]) -> dict[str, Any]:
    """The ways, and before them the speed-up of the fastest that loses nothing; 0 where all do."""
    enough = ways["plain"]["dev_accuracy"] - ACCURACY_SLACK
    fair = [name for name, way in ways.items() if name != "plain" and way["dev_accuracy"] >= enough]
    best, speedup = _fastest(ways, fair)
    return {"speedup": speedup, "way": best, **ways}


def by_words(ways: Mapping[str, Any], wers: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """The ways with their dev WER, and the speed-up of the fastest that makes no more errors; 0 where all do."""
    rated = {name: way | wers[name] if name in wers else way for name, way in ways.items()}
    fair = [name for name in wers if name != "plain" and wers[name]["errors"] <= wers["plain"]["errors"]]
    best, speedup = _fastest(ways, fair)
    return {"speedup_by_words": speedup, "way_by_words": best, **rated}


def _fastest(ways: Mapping[str, Any], fair: Sequence[str]) -> tuple[str, float]:
    best = max(fair, key=lambda name: ways[name]["speedup"], default="")
    return best, ways[best]["speedup"] if best else 0.0


def _summary(took: float, accuracy: Mapping[str, float]) -> dict[str, Any]:
    return {"s": round(took, 1), "dev_accuracy": round(statistics.mean(accuracy.values()), 4)}


@dataclasses.dataclass(frozen=True)
class PlainRun:
    """Of the plain loop: seconds beside all speakers, and of each speaker seconds and dev accuracy."""

    beside_s: float
    took: Mapping[str, float]
    accuracy: Mapping[str, float]

    @classmethod
    def of(cls, recipe: Recipe, speakers: tuple[str, ...], out: Path) -> "PlainRun":
        """The loop in a process of its own, which writes its adapters to `out`."""
        whole, (took, accuracy) = fresh(plain, recipe, speakers, n_cores(), out)
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


def wer(recipe: Recipe) -> dict[str, float]:
    """Of all dev utterances of the readers, with the adapters that are there now: the rate, and errors of words."""
    recipe = dataclasses.replace(recipe, split="dev")
    run_stage("decode", recipe)
    folder = recipe.decode_dir(recipe.systems[0], recipe.decoded(recipe.target_set, recipe.split))
    references, hypotheses = (
        [line.rpartition("(")[0].strip() for line in (folder / name).read_text(encoding="utf-8").splitlines()]
        for name in ("ref.trn", "hyp.trn")
    )
    counts = total(counts_of(references, hypotheses), "utterances")
    return {"wer": round(counts.rate, 4), "errors": counts.errors, "words": counts.words}


def wer_with(recipe: Recipe, adapters: Path) -> dict[str, float]:
    """The same, with adapters of another folder."""
    root = recipe.packed_dir / "speakers"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(adapters, root)
    return wer(recipe)


def fresh[T](call: Callable[..., T], *arguments: Any) -> tuple[float, T]:
    """Seconds from the start of a process to its end, and what `call` gave in it."""
    start = time.perf_counter()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found = pool.submit(call, *arguments).result()
    return time.perf_counter() - start, found


if __name__ == "__main__":
    main()
