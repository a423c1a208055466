"""How fast the batched search decodes beside stock ESPnet: the same model, beam and words.

`python benchmarks/decode.py --out FILE` decodes some utterances of real speech with ESPnet's Speech2Text, and with the
same weights here, in float32 (`full`) and in 4 bits (`exact`: unpacked once; `small`: at every use), one by one and in
a batch, at beam 10 and 1. All take turns in one process, so that what else the machine does meets every one of them.
Features are part of every time. Ratios are medians over the turns, each against stock in the same turn; `speedup` of a
beam is that of the float weights in a batch. `processes` has stock and the float weights in as many processes of one
thread as there are threads, each with its share of the utterances: stock gains more by them than by threads. `limits`
says how far the float weights are from what the machine can do. Threads wait for work as OpenMP lets them by default,
which is how stock's users have it. Two to four minutes on two idle cores.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.by_process import Processes
from benchmarks.common import longest_first, meta, middling, parse, parser, ratios, readers_clips, spread, turns, write
from benchmarks.limits import limits
from benchmarks.openers import best_of, opened, stock
from pqm_plugin.errors import PqmError
from pqm_plugin.models.interface import Recognizer
from pqm_plugin.models.options import SearchOptions

Decoder = Callable[[], list[tuple[str, float]]]
"""Gives words and scores of all clips."""
BEAMS = (10, 1)
WEIGHTS = ("full", "exact", "small")
BY_PROCESS = "_processes"
"""How the names of systems end that decode in as many processes of one thread as the others have threads."""
SAME_WORDS = {"small": "exact", "stock": "full"}
"""What computes on the same numbers, so that its words must be the same."""


def main() -> None:
    """Measure and write."""
    options = parser(
        __doc__,
        utterances=(8, 2, "utterances, of as many readers"),
        batch_size=(8, 2, "utterances of a batch"),
        repeats=(3, 1, "turns"),
        threads=(2, 2, "threads of every decoder"),
    )
    wanted = parse(options)
    torch.set_num_threads(wanted.threads)
    about = meta(0, wanted.threads, wanted.device)
    clips = longest_first(readers_clips(wanted.speech, wanted.utterances, middling))
    audio = [clip.samples for clip in clips]
    searches = {beam: SearchOptions(beam_size=beam, batch_size=wanted.batch_size) for beam in BEAMS}
    # Workers for one GPU would wait for each other.
    workers = Processes(wanted.threads, wanted.model, searches, wanted.device) if wanted.device == "cpu" else None
    length_s = sum(clip.seconds for clip in clips)
    found: dict[str, Any] = {"utterances": len(clips), "audio_s": round(length_s, 1), "batch_size": wanted.batch_size}
    for beam, search in searches.items():
        theirs = stock(wanted.model, search, wanted.device)
        ours = {weights: opened(wanted.model, search, wanted.device, weights) for weights in WEIGHTS}
        systems = decoders(theirs, ours, audio, wanted.batch_size)
        if workers is not None:
            systems |= {
                f"{name}{BY_PROCESS}": partial(workers.best, name, beam, audio, wanted.batch_size)
                for name in ("stock", "full")
            }
        best = {name: decoder() for name, decoder in systems.items()}  # also warms up
        check_words(best)
        in_float64 = best_of(stock(wanted.model, search, wanted.device, "float64"), audio, 1)
        found[f"beam{beam}"] = compare(systems, length_s, wanted.repeats, wanted.device) | {
            "limits": limits(ours["full"], audio, sorted({1, wanted.batch_size}), wanted.device),
            "scores": scores(best["full_batch1"], best["stock"], in_float64),
        }
    if workers is not None:
        workers.close()
    write(wanted, about, decode=found)


def decoders(
    theirs: Any, ours: Mapping[str, Recognizer], audio: Sequence[np.ndarray], batch_size: int
) -> dict[str, Decoder]:
    """All that take turns; names end in the batch size. `small` is for batches, where it unpacks seldom."""
    found: dict[str, Decoder] = {"stock": partial(best_of, theirs, audio, 1)}
    for size in sorted({1, batch_size}):
        for weights, recognizer in ours.items():
            if size == batch_size or weights != "small":
                found[f"{weights}_batch{size}"] = partial(best_of, recognizer, audio, size)
    return found


def scores(
    full: Sequence[tuple[str, float]], stock: Sequence[tuple[str, float]], in_float64: Sequence[tuple[str, float]]
) -> dict[str, float]:
    """How far scores are apart at most: ours and stock's, and each from what stock gives in float64."""
    ours, theirs, exact = ([score for _, score in one] for one in (full, stock, in_float64))
    return {
        "ours_to_stock": apart(ours, theirs),
        "ours_to_float64": apart(ours, exact),
        "stock_to_float64": apart(theirs, exact),
    }


def apart(some: Sequence[float], others: Sequence[float]) -> float:
    """The largest difference of a pair."""
    return max(abs(one - other) for one, other in zip(some, others, strict=True))


def check_words(best: Mapping[str, Sequence[tuple[str, float]]]) -> None:
    """See that all systems found the words that they should.

    Raises:
        PqmError: if the float weights do not find stock's words, or a batch finds others than its utterances alone.
    """
    words = {name: [text for text, _ in one] for name, one in best.items()}
    if different := [name for name in words if not same(words, name)]:
        raise PqmError(
            f"{', '.join(different)}: other words than they should find, so times cannot be compared: {words}"
        )


def compare(systems: Mapping[str, Decoder], length_s: float, repeats: int, device: str) -> dict[str, Any]:
    """Seconds and real-time factor of every system, and how many times faster than stock it is."""
    took = turns(systems, repeats, device)
    found: dict[str, Any] = {}
    for name, runs in took.items():
        found[name] = {"s": spread(runs), "rtf": spread([run / length_s for run in runs])}
        if name != "stock":
            found[name]["speedup"] = spread(ratios(took["stock"], runs), 2)
    in_batches = [name for name in found if name.startswith("full_batch")]
    largest = max(in_batches, key=lambda name: int(name.partition("batch")[2]))
    ways = {"speedup": found[largest]["speedup"]["median"], "same_words": True, **found}
    if f"stock{BY_PROCESS}" in took:
        gains = ratios(took[f"stock{BY_PROCESS}"], took[f"full{BY_PROCESS}"])
        ways["processes"] = {"speedup": spread(gains, 2)}
    return ways


def same(words: Mapping[str, list[str]], name: str) -> bool:
    """Whether a system's words are those that its weights give one by one."""
    weights = name.partition("_")[0]
    return words[name] == words[f"{SAME_WORDS.get(weights, weights)}_batch1"]


if __name__ == "__main__":
    main()
