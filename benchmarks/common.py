"""What all benchmarks share: options, the speech that is decoded, turns that are timed, what is written beside."""

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from benchmarks.ceilings import ceilings
from pqm_plugin.errors import PqmError
from pqm_plugin.files import write_json
from pqm_plugin.stages.common.provenance import circumstances

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("PQM_SHARED") or ROOT.parent / "shared")
"""Where the real speech and models lie by default."""
CONFIG = ROOT / "egs" / "librispeech" / "conf" / "pqm.yaml"
"""Of the recipe whose quantisation and adapters are measured."""
DEVICES = ("cpu", "cuda")
SAMPLE_RATE = 16000
"""Of the speech and the model."""


@dataclass(frozen=True)
class Clip:
    """An utterance of a corpus in LibriSpeech's layout."""

    path: Path
    text: str

    @cached_property
    def samples(self) -> np.ndarray:
        """Float32 (n_samples,)."""
        found: np.ndarray = soundfile.read(self.path, dtype="float32")[0]
        return found

    @property
    def seconds(self) -> float:
        """Length of the audio."""
        return soundfile.info(self.path).duration


def parser(doc: str, out: Path | None = None, **sizes: tuple[int, int, str]) -> argparse.ArgumentParser:
    """The options that all benchmarks have, and sizes: each a value, a value for `--quick`, and a help.

    Args:
        out: where it writes if nothing is said.
    """
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, default=out, required=out is None, help="JSON file to write")
    made.add_argument("--model", type=Path, default=SHARED / "models" / "conformer_small", help="ESPnet experiment")
    made.add_argument("--speech", type=Path, default=SHARED / "data/LibriSpeech/dev-clean", help="folder of readers")
    made.add_argument("--device", choices=DEVICES, default="cpu", help="where torch computes (default cpu)")
    made.add_argument("--quick", action="store_true", help="small sizes: does it work, not how fast it is")
    for name, (usual, quick, text) in sizes.items():
        made.add_argument(f"--{name}", type=int, help=f"{text} (default {usual}, with --quick {quick})")
    made.set_defaults(sizes={name: (usual, quick) for name, (usual, quick, _) in sizes.items()})
    return made


def parse(options: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options that were given, sizes filled in.

    Raises:
        PqmError: if there is no such device, model or speech.
    """
    wanted = options.parse_args(arguments)
    for name, values in wanted.sizes.items():
        if getattr(wanted, name) is None:
            setattr(wanted, name, values[wanted.quick])
    if wanted.quick and wanted.out.resolve().parent == Path(__file__).resolve().parent:
        options.error("--quick measures nothing that should stand here: name another file with --out")
    if wanted.device == "cuda" and not torch.cuda.is_available():
        raise PqmError("--device cuda: torch finds no CUDA device here; leave the option out")
    whole_float32_everywhere()
    for folder in (wanted.model, wanted.speech):
        if not folder.is_dir():
            raise PqmError(f"{folder} is not there: name another with --model and --speech, or set PQM_SHARED")
    return wanted


def whole_float32_everywhere() -> None:
    """Let no GPU drop bits of float32 in stock ESPnet either: decoders that compute with fewer find other words."""
    torch.backends.cudnn.allow_tf32 = False


def meta(seed: int, n_threads: int, device: str = "cpu") -> dict[str, Any]:
    """The `meta` of a benchmark's file; take it first: the checkout may have changed when the benchmark has ended."""
    command = shlex.join(["python", _shown(str(Path(sys.argv[0]).resolve())), *map(_shown, sys.argv[1:])])
    threads = f"{n_threads} thread{'s' if n_threads > 1 else ''}"
    memory = {"memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")}
    about = circumstances(command, seed, threads, ["benchmarks/*.py"]) | memory | {"kernel": platform.release()}
    gpu = {"cuda_device": torch.cuda.get_device_name()} if device == "cuda" else {}
    busy = {"load_average": [round(load, 2) for load in os.getloadavg()], "others_running": others_running()}
    return about | gpu | {"threads": n_threads} | busy


def others_running(n_samples: int = 20) -> float:
    """Mean number of threads of others that run or wait for a core, of samples over some tenths of a second.

    The load average of a minute would count what this process, or its predecessor, has just done. 0 outside Linux.
    """
    path = Path("/proc/loadavg")
    if not path.is_file():
        return 0.0
    found = []
    for _ in range(n_samples):
        time.sleep(0.02)
        found.append(int(path.read_text().split()[3].split("/")[0]) - 1)
    return round(statistics.mean(found), 2)


def _shown(argument: str) -> str:
    """A path from the checkout on, or its name alone: where it lies on this machine is of no use on another."""
    path = Path(argument)
    if not path.is_absolute():
        return argument
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def write(wanted: argparse.Namespace, about: Mapping[str, Any], **found: Any) -> None:
    """Write a benchmark's file, and print what it found."""
    after = {"load_average_after": [round(load, 2) for load in os.getloadavg()]}
    turns = {"turns": wanted.repeats} if hasattr(wanted, "repeats") else {}
    limits = ceilings(wanted.device)
    write_json(wanted.out, {"meta": {**about, **after, **turns, "quick": wanted.quick}, "ceilings": limits, **found})
    print(json.dumps(found, indent=2))


def readers_clips(speech: Path, n_readers: int, choose: Callable[[list[Path]], list[Path]]) -> list[Clip]:
    """Utterances of `n_readers` readers: of each what `choose` takes from its files, which are sorted by name.

    Raises:
        PqmError: if there are fewer readers.
    """
    named = readers(speech, n_readers)
    return [clip_of(path) for name in named for path in choose(sorted((speech / name).rglob("*.flac")))]


def readers(speech: Path, n: int) -> list[str]:
    """The first `n` readers by name.

    Raises:
        PqmError: if there are fewer.
    """
    found = sorted(folder.name for folder in speech.iterdir() if folder.is_dir())[:n]
    if len(found) < n:
        raise PqmError(f"{speech}: {len(found)} readers are there, {n} were asked for")
    return found


def longest_first(clips: Sequence[Clip]) -> list[Clip]:
    """As stage 6 batches them."""
    return sorted(clips, key=lambda clip: -clip.seconds)


def middling(files: list[Path]) -> list[Path]:
    """The one of middling size."""
    return [sorted(files, key=lambda path: (path.stat().st_size, path.name))[len(files) // 2]]


def clip_of(path: Path) -> Clip:
    """The utterance of an audio file, with its words in the letter case of the model."""
    [listing] = path.parent.glob("*.trans.txt")
    texts = dict(line.split(" ", 1) for line in listing.read_text(encoding="utf-8").splitlines())
    return Clip(path, texts[path.stem].lower())


def seconds_of(call: Callable[[], Any], device: str = "cpu") -> float:
    """How long a call takes, what it left to the device included."""
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def turns(systems: Mapping[str, Callable[[], Any]], repeats: int, device: str = "cpu") -> dict[str, list[float]]:
    """Seconds of every system in every turn; all take turns, so that what else the machine does meets every one."""
    took: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(repeats):
        for name, call in systems.items():
            took[name].append(seconds_of(call, device))
    return took


def ratios(of: Sequence[float], over: Sequence[float]) -> list[float]:
    """Turn by turn."""
    return [one / other for one, other in zip(of, over, strict=True)]


def spread(values: Sequence[float], digits: int = 4) -> dict[str, float]:
    """Median, lowest and highest."""
    named = {"median": statistics.median(values), "low": min(values), "high": max(values)}
    return {name: round(value, digits) for name, value in named.items()}
