"""benchmarks/RESULTS.md, from stored results alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.page_adapting import adaptation, growth, other_runs, step
from benchmarks.page_decoding import decoding, modes, same_words
from benchmarks.page_hearing import hearing
from benchmarks.page_serving import serving
from benchmarks.results import value
from benchmarks.shown import Results
from pqm_plugin.files import read_json
from pqm_plugin.report.tables import NOTHING, table

GOALS = (
    ("decode.beam10.speedup", "beam 10, batch, float weights: times faster than stock ESPnet", ">=", 3.0),
    ("decode.beam1.speedup", "beam 1, batch, float weights: times faster than stock ESPnet", ">=", 2.0),
    ("modes.small.weights_memory_ratio", "`small`: memory of weights over that of float32", "<=", 0.35),
    ("modes.small.speed_of_stock.median", "`small`: times faster than stock ESPnet", ">=", 1.0),
    (
        "adapt.speakers10.speedup",
        "ten speakers, teacher-forced dev accuracy kept: times faster than a plain PEFT loop",
        ">=",
        3.0,
    ),
    (
        "adapt.speakers10.speedup_by_words",
        "ten speakers, no more dev word errors: times faster than a plain PEFT loop",
        ">=",
        3.0,
    ),
    ("switch.ms", "switch of speaker, median, ms", "<=", 5.0),
    ("switch.ms_p95", "switch of speaker, 95th percentile, ms", "<=", 5.0),
    (
        "growth.adapters.paged.1000.switch_ms.median",
        "switch among 1,000 within 64 MiB, most read a file, median, ms",
        "<=",
        5.0,
    ),
    (
        "growth.adapters.paged.1000.switch_ms.p95",
        "switch among 1,000 within 64 MiB, most read a file, 95th percentile, ms",
        "<=",
        5.0,
    ),
)
FIGURE = "figures/growth.svg"
BESIDE = {
    "recipe": Path(__file__).resolve().parents[1] / "egs/librispeech/results.json",
    "same_words": Path(__file__).resolve().with_name("same_words.json"),
    "words_by_mode": Path(__file__).resolve().with_name("words_by_mode.json"),
    "hear": Path(__file__).resolve().with_name("hear.json"),
    "serve": Path(__file__).resolve().with_name("serve.json"),
}
"""What the page shows of other programs' results, where they are there."""


def beside(results: Results) -> dict[str, Any]:
    """Those of `BESIDE` that are there, and all `adapt_*.json`; beside what a GPU did, none: a CPU computed them."""
    if "cuda_device" in results["meta"]:
        return {}
    adapted = [read_json(path) for path in sorted(Path(__file__).resolve().parent.glob("adapt_*.json"))]
    return {name: read_json(path) for name, path in BESIDE.items() if path.is_file()} | {"adapted": adapted}


def page(results: Results, others: Mapping[str, Any]) -> str:
    """The whole page.

    Args:
        others: what `beside` gives.
    """
    sections = {
        "decode": [lambda: decoding(results), lambda: same_words(others.get("same_words"))],
        "modes": [lambda: modes(results, others.get("recipe"), others.get("words_by_mode"))],
        "adapt": [lambda: adaptation(results), lambda: other_runs(others.get("adapted", ()))],
        "step": [lambda: step(results)],
        "growth": [lambda: growth(results, FIGURE)],
    }
    skipped = results["meta"].get("skipped", ())
    parts = [_head(results), _goals(results), _ceilings(results)]
    parts += [section() for script, written in sections.items() if script not in skipped for section in written]
    parts += [hearing(others.get("hear")), serving(others.get("serve"))]
    return "\n".join(part for part in parts if part)


def unmet(results: Results) -> list[str]:
    """The goals that were measured and missed, in words."""
    return [what for key, what, sign, goal in GOALS if _met(results, key, sign, goal) == "no"]


def measured(results: Results, key: str) -> str:
    """A number that there is a goal for, as a table has it; "none" for a speed-up that nothing has."""
    try:
        found = value(results, key)
    except KeyError:
        return NOTHING
    return f"{found:g}" if found else "none"


def _met(results: Results, key: str, sign: str, goal: float) -> str:
    try:
        found = value(results, key)
    except KeyError:
        return NOTHING
    return "yes" if (found >= goal if sign == ">=" else found <= goal) else "no"


def _head(results: Results) -> str:
    meta = results["meta"]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(meta["versions"].items()))
    running = {name: part["others_running"] for name, part in meta["parts"].items()}
    turns = [f"{name} {part['turns']}" for name, part in meta["parts"].items() if "turns" in part]
    lines = [
        f"commit: `{meta['commit']}`",
        *([f"command: `{meta['command']}`"] if "command" in meta else []),
        *(f"command of {name}: `{part['command']}`" for name, part in meta["parts"].items()),
        f"seed: {meta['seed']}",
        f"hardware: {meta['hardware']}, {meta['memory_bytes'] / 1e9:.1f} GB of memory",
        *(
            [f"CUDA device: {meta['cuda_device']}; float32 without TF32, of stock tools too"]
            if "cuda_device" in meta
            else []
        ),
        f"date: {meta['date']}",
        f"versions: {versions}",
        "threads of others that ran before " + ", ".join(f"{name} {n:.1f}" for name, n in running.items()),
        f"took {meta['took_s'] / 60:.1f} minutes{_of_parts(meta)}",
        *([f"turns: {', '.join(turns)}"] if turns else []),
        *([f"left out: {', '.join(meta['skipped'])}"] if meta.get("skipped") else []),
    ]
    quick = "\n**Sizes of `--quick`: these numbers show that the scripts work, and nothing else.**\n"
    return (
        "# Benchmarks\n\nThis page is written by `benchmarks/run.py` from stored results; do not edit it.\n"
        "Numbers are medians over turns, with the lowest and the highest; of two turns the median is the mean. Ratios "
        "are taken turn by turn. What was measured once has no spread.\n"
        + (quick if meta["quick"] else "")
        + "\n"
        + "".join(f"* {line}\n" for line in lines)
    )


def _of_parts(meta: Results) -> str:
    took = [f"{name} {part['took_s'] / 60:.1f}" for name, part in meta["parts"].items() if "took_s" in part]
    return f": {', '.join(took)}" if took else ""


def _goals(results: Results) -> str:
    rows = []
    for key, what, sign, goal in GOALS:
        rows.append([what, f"`{key}`", measured(results, key), f"{sign} {goal:g}", _met(results, key, sign, goal)])
    return "## Goals\n\n" + table(("what", "key", "measured", "goal", "met"), rows, text_columns=2)


def _ceilings(results: Results) -> str:
    names = {"threads1": "1 thread", "threads2": "2 threads", "cuda": "CUDA device"}
    columns = {
        "read_gbyte_per_s": "reading GB/s",
        "float32_gflop_per_s": "products GFLOP/s",
        "bfloat16_gflop_per_s": "products in bfloat16 GFLOP/s",
    }
    rows = [
        [names[threads], *(f"{rates[name]:g}" for name in columns)]
        for threads, rates in sorted(results["ceilings"].items())
    ]
    return (
        "## What the machine can do\n\n"
        "Reading: a matrix of 256 MiB times a vector. Products: square matrices, float32 where nothing is said.\n\n"
        + table(("with", *columns.values()), rows)
    )
