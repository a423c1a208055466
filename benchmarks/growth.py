"""What speakers, length and beam cost as they grow.

`python benchmarks/growth.py --out FILE` makes adapters of the recipe's shape for the real Conformer in 4 bits, each
with other weights, and measures with 1, 10, 100 and 1,000 of them: the memory of the process, and the time to switch to
any one; once with all in memory, where no switch may touch a file, and once within `--memory_mib`, where those longest
unused are paged out. Then the time of a batch by the number of distinct adapters in it, of an utterance by its length,
and of some utterances by the beam. `bend` is how far the worst point is from the straight line that fits all points
best, relative to its own value. What is cheap has more turns than `--repeats`. One or two minutes.
"""

import ctypes
import gc
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # what every process of a recipe has, see pqm_plugin/processes.py

import torch
from safetensors.torch import load_file, save_file

from benchmarks.common import (
    CONFIG,
    SAMPLE_RATE,
    Clip,
    longest_first,
    meta,
    middling,
    parse,
    parser,
    ratios,
    readers_clips,
    seconds_of,
    spread,
    turns,
    write,
)
from benchmarks.limits import watched
from benchmarks.openers import opened
from pqm_plugin.adapters.bank import AdapterBank
from pqm_plugin.adapters.files import AdapterInfo, save_adapter
from pqm_plugin.adapters.lora import parameter_counts
from pqm_plugin.adapters.options import WEIGHTS
from pqm_plugin.engine.learn import attach_lora
from pqm_plugin.models.families import family_of
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.stages.config import load_config

BASE = "0" * 64
"""What stands for the hash of the base: the adapters are of no speaker."""
LENGTHS_S = (2, 4, 8, 16, 32)
BEAMS = (1, 2, 5, 10, 20)
BATCH = 8
CHEAP = 2
"""So many times as many turns has what takes half a second."""


def main() -> None:
    """Measure and write."""
    options = parser(
        __doc__,
        adapters=(1000, 100, "adapters at most"),
        switches=(300, 50, "switches that are timed, by number of adapters"),
        memory_mib=(64, 4, "memory in MiB that paged adapters may take"),
        repeats=(2, 1, "turns of whatever decodes"),
        threads=(2, 2, "threads"),
    )
    wanted = parse(options)
    torch.set_num_threads(wanted.threads)
    about = meta(0, wanted.threads, wanted.device)
    clips = longest_first(readers_clips(wanted.speech, BATCH, middling))
    audio = [clip.samples for clip in clips[: 2 if wanted.quick else BATCH]]
    with tempfile.TemporaryDirectory(prefix="pqm_bench_") as scratch:
        folders = make_adapters(wanted.model, Path(scratch), wanted.adapters)
        recognizer = opened(wanted.model, SearchOptions(batch_size=BATCH), wanted.device, "exact")
        recognizer.recognize(audio[-1:])
        counts = [n for n in (1, 10, 100, 1000) if n <= wanted.adapters]
        among = partial(by_adapters, recognizer.network, folders, counts, wanted.switches, device=wanted.device)
        paged, held = among(wanted.memory_mib * 2**20), among(None)
        batch = by_distinct(recognizer, folders, clips, CHEAP * wanted.repeats, wanted.device)
    length = by_length(recognizer, clips, LENGTHS_S[:2] if wanted.quick else LENGTHS_S, wanted.repeats, wanted.device)
    beam = by_beam(wanted.model, audio, BEAMS[:2] if wanted.quick else BEAMS, wanted.repeats, wanted.device)
    adapters = {"memory_mib": wanted.memory_mib, "held": held, "paged": paged}
    last = held[str(counts[-1])]["switch_ms"]
    switch = {"ms": last["median"], "ms_p95": last["p95"], "adapters": counts[-1], "reloads": 0}
    write(wanted, about, switch=switch, growth={"adapters": adapters, "batch": batch, "length": length, "beam": beam})


def make_adapters(model: Path, folder: Path, n: int) -> list[Path]:
    """Write `n` adapters of the recipe's shape, with random weights."""
    recognizer = family_of(model).load_float(model, SearchOptions(), "cpu")
    lora = load_config(CONFIG).lora
    attached = attach_lora(recognizer, lora, seed=0)
    first = folder / "speaker0000"
    save_adapter(first, attached, AdapterInfo(BASE, "nobody", *parameter_counts(attached), best_epoch=0))
    tensors = load_file(first / WEIGHTS)
    made = [first]
    for number in range(1, n):
        made.append(folder / f"speaker{number:04d}")
        shutil.copytree(first, made[-1])
        noise = torch.Generator().manual_seed(number)
        save_file(
            {name: torch.randn(value.shape, generator=noise) * 0.01 for name, value in tensors.items()},
            made[-1] / WEIGHTS,
        )
    return made


def by_adapters(
    network: Any,
    folders: Sequence[Path],
    counts: Sequence[int],
    switches: int,
    limit_bytes: int | None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Memory, and times of switches among the first n adapters, each drawn at random; None is no limit."""
    bank = AdapterBank(network, BASE, sys.maxsize if limit_bytes is None else limit_bytes)
    bank.load(folders[:1])
    draw = random.Random(0)
    found: dict[str, Any] = {}
    before = resident_bytes() - bank.held_bytes
    known = 1
    for n in counts:
        load_s = [seconds_of(partial(bank.load, [folder]), device) for folder in folders[known:n]]
        known = max(known, n)
        took, loads = [], 0
        for folder in draw.choices(folders[:n], k=switches):
            loads += len(bank.load([folder])) if limit_bytes is None else 0
            took.append(seconds_of(partial(_switch, bank, folder), device))
        if loads:
            raise RuntimeError(f"{loads} of {switches} switches read a file")
        found[str(n)] = {
            "in_memory": len(bank),
            "held_bytes": bank.held_bytes,
            "process_grew_by_bytes": resident_bytes() - before,
            "switch_ms": {**spread([1000 * one for one in took], 3), "p95": percentile(took, 0.95)},
            **({"load_ms": spread([1000 * one for one in load_s], 2)} if load_s else {}),
        }
    return found


def _switch(bank: AdapterBank, folder: Path) -> None:
    """To another speaker: all that is between one's last frame and the other's first."""
    with bank.rows([folder]):
        pass


def percentile(seconds: Sequence[float], share: float) -> float:
    """In milliseconds."""
    return round(float(1000 * np.quantile(seconds, share)), 3)


def resident_bytes() -> int:
    """Memory of this process that is not in files; 0 where the system does not tell."""
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)  # what earlier work has given back to the allocator would hide what is taken now
    try:
        fields = Path("/proc/self/statm").read_text().split()
    except OSError:
        return 0
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")


def by_distinct(
    recognizer: Any, folders: Sequence[Path], clips: Sequence[Clip], repeats: int, device: str
) -> dict[str, Any]:
    """Seconds of one batch of equally long utterances, whose rows share 1, 2, 4 or 8 adapters; and without any."""
    samples = min(len(clip.samples) for clip in clips)
    batch = [clip.samples[:samples] for clip in clips]
    bank = AdapterBank(recognizer.network, BASE)

    def decode(chosen: Sequence[Path]) -> None:
        with bank.rows(chosen):
            recognizer.recognize(batch)

    ways = {"0": []} | {str(n): [folders[row % n] for row in range(BATCH)] for n in (1, 2, 4, 8)}
    for chosen in (ways["0"], ways["8"]):
        decode(chosen)
    took = turns({name: partial(decode, chosen) for name, chosen in ways.items()}, repeats, device)
    return {name: {"s": spread(runs), "over_none": spread(ratios(runs, took["0"]), 3)} for name, runs in took.items()}


def by_length(
    recognizer: Any, clips: Sequence[Clip], lengths_s: Sequence[int], repeats: int, device: str
) -> dict[str, Any]:
    """Seconds of one utterance, which is so much of several joined; those of the encoder, and steps of the search."""
    speech = np.concatenate([clip.samples for clip in clips])
    audio = {str(length): speech[: length * SAMPLE_RATE] for length in lengths_s}
    recognizer.recognize([audio[str(lengths_s[-1])]])
    took = turns({name: partial(recognizer.recognize, [one]) for name, one in audio.items()}, repeats, device)
    found: dict[str, Any] = {}
    for name, one in audio.items():
        with watched(recognizer.network, device) as split:
            recognizer.recognize([one])
        found[name] = {"s": spread(took[name]), "encoder_s": round(split.encoder_s, 4), "steps": split.steps}
    return {"by_seconds": found, "bend": bend({float(name): one["s"]["median"] for name, one in found.items()})}


def by_beam(
    model: Path, audio: Sequence[np.ndarray], beams: Sequence[int], repeats: int, device: str
) -> dict[str, Any]:
    """Seconds of all utterances in one batch."""
    systems = {}
    for beam in beams:
        recognizer = opened(model, SearchOptions(beam_size=beam, batch_size=len(audio)), device, "exact")
        systems[str(beam)] = partial(recognizer.recognize, audio)
        systems[str(beam)]()
    took = turns(systems, repeats, device)
    found = {name: {"s": spread(runs)} for name, runs in took.items()}
    return {"by_beam": found, "bend": bend({float(name): one["s"]["median"] for name, one in found.items()})}


def bend(points: Mapping[float, float]) -> float:
    """Largest distance of a point from the straight line of least relative squares, over the point's own value."""
    x, y = (np.array(list(values)) for values in (points.keys(), points.values()))
    slope, start = np.polyfit(x, y, 1, w=1 / y)
    return round(float(np.max(np.abs(slope * x + start - y) / y)), 3)


if __name__ == "__main__":
    main()
