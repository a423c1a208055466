"""How many requests a minute `pqm serve --api` answers, one caller at a time and many, and how long each waits.

Serves the packed small Conformer to the readers of real speech, `--packed FOLDER` another model, with `--quick` a tiny
one of random weights to noise. Every word is compared with the word that the same request gets alone. Three parts,
each bounded by `--requests` and `--most_s`: callers at once in a closed loop; requests with random gaps at shares of
the rate that this reached; and the first again among `--enrolled` speakers, with what the server weighs. RESULTS.md
shows `benchmarks/serve.json`. About ten minutes on two cores that do nothing else.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import soundfile
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import SHARED, meta
from pqm_plugin.adapters.options import WEIGHTS
from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json, write_json
from tests.tiny import make_tiny_conformer

ROOT = Path(__file__).resolve().parents[1]
SIZES = {
    "speakers": (20, 4, "speakers who ask"),
    "clients": (50, 6, "callers at once"),
    "requests": (200, 12, "requests of each measurement"),
    "enrolled": (1000, 20, "speakers enrolled in the last part"),
}
"""Each: usually, with `--quick`, and what it is."""
SHARES = (0.5, 0.8, 0.95)
"""Of the rate of the closed loop, at which requests come in the open one."""
KEEPS_UP = 0.95
"""The share of the rate at which requests come that the rate of the answers is at least, where a server keeps up."""
TEXTS = ("GO ON", "STOP NOW")


@dataclass(frozen=True)
class Request:
    """Who speaks, and what."""

    speaker: str
    audio: Path


@dataclass(frozen=True)
class Answer:
    """The words, and the seconds from sending to having them; None where the server had no place."""

    text: str | None
    seconds: float


def main() -> None:
    """Measure and write."""
    wanted = options()
    about = meta(0, wanted.threads)
    with tempfile.TemporaryDirectory(prefix="pqm_serve_") as scratch:
        model = prepare(Path(scratch), wanted)
        requests = asked(Path(scratch), wanted)
        speech_s = sum(soundfile.info(each.audio).duration for each in requests)
        with serving(model, wanted) as server:
            few = measured(server.url, requests, wanted)
            few_weigh = server.weighs()
        enroll_copies(model, [f"s{place:05d}" for place in range(wanted.speakers, wanted.enrolled)], noise=False)
        with serving(model, wanted) as server:
            many = at_once(server.url, requests, wanted, few["words"]) | server.weighs()
    found = {
        "model": wanted.packed.name if wanted.packed else "tiny random" if wanted.quick else wanted.model.name,
        "speakers": wanted.speakers,
        "clients": wanted.clients,
        "requests": len(requests),
        "speech_s": round(speech_s, 1),
        **{name: value for name, value in few.items() if name != "words"},
        "growth": {str(wanted.speakers): few["at_once"] | few_weigh, str(wanted.enrolled): many},
    }
    after = {"load_average_after": [round(load, 2) for load in os.getloadavg()], "quick": wanted.quick}
    write_json(wanted.out, {"meta": about | after, **found})
    print(json.dumps(found, indent=2))


def options() -> argparse.Namespace:
    """What was asked for.

    Raises:
        PqmError: if the model or the speech is not there.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--model", type=Path, default=SHARED / "models/conformer_small", help="ESPnet experiment")
    parser.add_argument("--packed", type=Path, help="packed model, in place of it")
    parser.add_argument("--speech", type=Path, default=SHARED / "data/LibriSpeech/dev-clean", help="recordings")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where torch computes (default cpu)")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it work, not how fast it is")
    for name, (usual, quick, what) in SIZES.items():
        parser.add_argument(f"--{name}", type=int, help=f"{what} (default {usual}, with --quick {quick})")
    parser.add_argument("--most_s", type=float, default=600, help="seconds of a measurement at most (default 600)")
    parser.add_argument("--threads", type=int, default=1, help="threads of the server (default 1)")
    wanted = parser.parse_args()
    for name, values in SIZES.items():
        if getattr(wanted, name) is None:
            setattr(wanted, name, values[wanted.quick])
    if wanted.quick and wanted.out.resolve().parent == Path(__file__).resolve().parent:
        parser.error("--quick measures nothing that should stand here: name another file with --out")
    for folder in () if wanted.quick else (wanted.packed or wanted.model, wanted.speech):
        if not folder.is_dir():
            raise PqmError(f"{folder} is not there: name another with --packed and --speech, or set PQM_SHARED")
    return wanted


def prepare(folder: Path, wanted: argparse.Namespace) -> Path:
    """A copy of the model with an adapter for each speaker: one that is learned, then changed by chance for each."""
    import pqm_plugin
    from pqm_plugin.personal.making import quantize
    from pqm_plugin.personal.options import EnrollOptions

    model = folder / "model"
    if wanted.packed:
        shutil.copytree(wanted.packed, model, ignore=shutil.ignore_patterns("speakers*", "decode_*"))
    elif not wanted.quick:
        quantize(str(wanted.model), model)
    else:
        quantize(str(make_tiny_conformer(folder / "tiny")), model)
        # Random weights write until they may not.
        search = {"beam_size": 2, "max_length_ratio": 0.1}
        write_json(model / "about.json", {**read_json(model / "about.json"), "decode": search})
    noise = np.random.default_rng(0)
    # Two recordings are learned in any case; what of them is of no use here.
    clips = [noise.integers(-3000, 3000, 32000, dtype=np.int16) for _ in TEXTS]
    options = EnrollOptions(few_epochs=2)
    pqm_plugin.load(model).enroll("s00000", clips, TEXTS, options=options)
    enroll_copies(model, [f"s{place:05d}" for place in range(1, wanted.speakers)], noise=True)
    return model


def enroll_copies(model: Path, names: Sequence[str], *, noise: bool) -> None:
    """Further speakers like the first; with noise on the factors, a tenth of their size, no two are alike."""
    import torch

    chance = torch.Generator().manual_seed(0)
    first = model / "speakers/s00000"
    weights = load_file(first / WEIGHTS)
    for name in names:
        place = shutil.copytree(first, model / "speakers" / name)
        if noise:
            changed = {
                key: value + 0.1 * value.abs().max().clamp(min=1e-3) * torch.randn(value.shape, generator=chance)
                for key, value in weights.items()
            }
            save_file(changed, place / WEIGHTS, metadata={"format": "pt"})


def asked(folder: Path, wanted: argparse.Namespace) -> list[Request]:
    """Requests of all speakers in turns, of recordings in an order by chance that is always the same."""
    if not wanted.quick:
        files = sorted(path for path in wanted.speech.rglob("*") if path.suffix in (".flac", ".wav"))
        random.Random(0).shuffle(files)
    else:
        noise, files = np.random.default_rng(1), []
        for place in range(wanted.speakers):
            files.append(folder / f"{place}.wav")
            samples = noise.integers(-3000, 3000, int(noise.uniform(1, 3) * 16000), dtype=np.int16)
            soundfile.write(files[-1], samples, 16000)
    numbers = range(wanted.requests)
    return [Request(f"s{number % wanted.speakers:05d}", files[number % len(files)]) for number in numbers]


@dataclass(frozen=True)
class Server:
    """Where it is, its process, and the seconds that it took to answer."""

    url: str
    pid: int
    start_s: float

    def weighs(self) -> dict[str, float]:
        """Its memory in MB, now and at most, how long its list of models takes, and how long it took to start."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8")
        kilobytes = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB$", status, re.M))
        listings = []
        for _ in range(5):
            start = time.perf_counter()
            httpx.get(f"{self.url}v1/models", timeout=60).raise_for_status()
            listings.append(time.perf_counter() - start)
        return {
            "start_s": round(self.start_s, 2),
            "rss_mb": round(int(kilobytes["VmRSS"]) * 1024 / 1e6, 1),
            "peak_rss_mb": round(int(kilobytes["VmHWM"]) * 1024 / 1e6, 1),
            "models_ms": round(1000 * statistics.median(listings), 2),
        }


@contextmanager
def serving(model: Path, wanted: argparse.Namespace) -> Iterator[Server]:
    """A server of the model, while it runs.

    Raises:
        PqmError: if it does not start.
    """
    given = ["--device", wanted.device, "--threads", str(wanted.threads), "--max_queue", str(2 * wanted.clients)]
    command = [sys.executable, "-m", "pqm_plugin.commands", "serve", str(model), "--port", "0", "--api", "--quiet"]
    start = time.perf_counter()
    process = subprocess.Popen([*command, *given], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        ready = re.search(r"http://[\d.]+:\d+/", process.stdout.readline())
        if ready is None:
            raise PqmError("the server did not start: see what it wrote above")
        # The first request waits until it answers.
        httpx.get(f"{ready[0]}v1/models", timeout=wanted.most_s).raise_for_status()
        yield Server(ready[0], process.pid, time.perf_counter() - start)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def ask(client: httpx.Client, url: str, request: Request, due: float | None = None) -> Answer:
    """One request; seconds count from when it was `due`, by default now."""
    start = time.perf_counter() if due is None else due
    with request.audio.open("rb") as file:
        data = {"model": request.speaker}
        answer = client.post(f"{url}v1/audio/transcriptions", data=data, files={"file": file})
    if answer.status_code != 503:
        answer.raise_for_status()
    return Answer(answer.json().get("text"), time.perf_counter() - start)


def measured(url: str, requests: Sequence[Request], wanted: argparse.Namespace) -> dict[str, Any]:
    """One at a time, all callers at once, and at shares of the rate that they reached."""
    with httpx.Client(timeout=wanted.most_s) as client:
        ask(client, url, requests[0])
        start = time.perf_counter()
        alone = [ask(client, url, request) for request in requests]
        one_s = time.perf_counter() - start
    words = [answer.text for answer in alone]
    closed = at_once(url, requests, wanted, words)
    rate = closed["requests_per_s"]
    loads = [{"share": share, **open_loop(url, requests, wanted, words, share * rate)} for share in SHARES]
    return {
        "words": words,
        "one_at_a_time": {"requests_per_s": round(len(requests) / one_s, 3), **latency(alone)},
        "at_once": closed,
        "speedup": round(rate * one_s / len(requests), 3),
        "open_loop": loads,
        "keeps_up": [load for load in loads if load["keeps_up"]][-1:],
    }


def at_once(url: str, requests: Sequence[Request], wanted: argparse.Namespace, words: Sequence[str]) -> dict[str, Any]:
    """All callers, each with its next request when its last is answered."""
    start = time.perf_counter()
    answers = sent(url, requests, wanted, None)
    seconds = time.perf_counter() - start
    return {"requests_per_s": round(len(answers) / seconds, 3), **compared(answers, words)}


def open_loop(
    url: str, requests: Sequence[Request], wanted: argparse.Namespace, words: Sequence[str], rate: float
) -> dict[str, Any]:
    """Requests at random times, `rate` a second on average, whether earlier ones are answered or not."""
    chance, at, times = random.Random(0), time.perf_counter(), []
    for _ in requests:
        at += chance.expovariate(rate)
        times.append(at)
    start = times[0]
    answers = sent(url, requests, wanted, times)
    answered = len(answers) / (time.perf_counter() - start)
    found = compared(answers, words)
    keeps_up = answered >= KEEPS_UP * rate and not found["refused"]
    return {"requests_per_s": round(rate, 3), "answered_per_s": round(answered, 3), "keeps_up": keeps_up, **found}


def sent(
    url: str, requests: Sequence[Request], wanted: argparse.Namespace, times: Sequence[float] | None
) -> list[Answer]:
    """The answers of as many requests as fit into the time, in their order."""
    end = time.perf_counter() + wanted.most_s
    lock, numbers = threading.Lock(), iter(range(len(requests)))

    def call(client: httpx.Client) -> list[tuple[int, Answer]]:
        found = []
        while time.perf_counter() < end:
            with lock:
                place = next(numbers, None)
            if place is None:
                break
            due = times[place] if times is not None else None
            if due is not None:
                time.sleep(max(0.0, due - time.perf_counter()))
            found.append((place, ask(client, url, requests[place], due)))
        return found

    with (
        ThreadPoolExecutor(wanted.clients) as pool,
        httpx.Client(timeout=wanted.most_s, limits=httpx.Limits(max_connections=wanted.clients)) as client,
    ):
        parts = [each.result() for each in [pool.submit(call, client) for _ in range(wanted.clients)]]
    return [answer for _, answer in sorted((pair for part in parts for pair in part), key=lambda pair: pair[0])]


def compared(answers: Sequence[Answer], words: Sequence[str | None]) -> dict[str, Any]:
    """How many were answered, how many had other words than alone, and how long they waited."""
    pairs = [(answer.text, text) for answer, text in zip(answers, words, strict=False) if answer.text is not None]
    return {
        "answered": len(pairs),
        "refused": sum(answer.text is None for answer in answers),
        "other_words": sum(one != other for one, other in pairs),
        **latency(answers),
    }


def latency(answers: Sequence[Answer]) -> dict[str, float]:
    """Median and 95th percentile of the seconds that an answer took."""
    seconds = sorted(answer.seconds for answer in answers if answer.text is not None)
    p95 = seconds[min(len(seconds) - 1, int(0.95 * len(seconds)))]
    return {"median_s": round(statistics.median(seconds), 4), "p95_s": round(p95, 4)}


if __name__ == "__main__":
    try:
        main()
    except PqmError as error:
        sys.exit(f"{Path(__file__).name}: {error}")
