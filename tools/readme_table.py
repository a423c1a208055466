#!/usr/bin/env python3
"""Draw the tables of README.md from the results that are stored in egs/ and benchmarks/: tools/readme_table.py."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.page import GOALS, adapted_by_hand, unmet
from benchmarks.page_adapting import in_words
from benchmarks.results import value
from pqm_plugin.files import read_json, write_text
from pqm_plugin.report.labels import label_line
from pqm_plugin.report.markdown import table
from pqm_plugin.report.summary import summary_table
from pqm_plugin.stages.reporting.words import read_words

ROOT = Path(__file__).resolve().parents[1]
CONDITIONS = {
    "joint decoding": "results.json",
    "CTC alone": "results_ctc.json",
    "device and room": "results_device.json",
}
_COLUMNS = (
    "Against `full`: the share of its word errors that is gone, with its 95 % interval; normalised: the same after "
    "Whisper's English text normaliser, where a text format that was learned counts for nothing.\n"
)
_BLOCKS = re.compile(r"(?<=<!-- table: tools/readme_table.py -->\n\n).*?(?=\n\n<!-- end of table -->)", re.S)


def drawn(readme: str) -> str:
    """The text of README.md with its tables drawn anew: of systems first, of speed second."""
    tables = iter((systems(), speed()))
    return _BLOCKS.sub(lambda _: next(tables).strip(), readme)


def systems() -> str:
    """Every system under every condition that was scored, below what must be said beside it."""
    folder = ROOT / "egs/librispeech"
    there = {name: file for name, file in CONDITIONS.items() if (folder / file).is_file()}
    label = label_line(read_words(folder).labels_of(*there.values()))
    return f"{label}\n{_COLUMNS}\n{summary_table({name: read_json(folder / file) for name, file in there.items()})}"


def speed() -> str:
    """The ratios of `make bench` that its page has goals for, which goals are missed, and how speakers were adapted."""
    results = read_json(ROOT / "benchmarks/results.json")
    found = table(("what", "measured"), [[what, f"{value(results, key):g}"] for key, what, *_ in GOALS])
    missed = unmet(results)
    goals = f"Missed goals: {'; '.join(missed)}." if missed else "All goals are met."
    return f"{found}\n{goals} {_adapted(results['adapt']['speakers10'])}{_other_runs()}{_on_a_gpu()}"


def _other_runs() -> str:
    said = " ".join(map(in_words, adapted_by_hand()))
    return f"\n\nTen speakers by other runs of adapt.py: {said}" if said else ""


def _on_a_gpu() -> str:
    path = ROOT / "benchmarks/cuda/results.json"
    if not path.is_file():
        return ""
    results = read_json(path)
    ten, one = (results["decode"][f"beam{beam}"]["speedup"] for beam in (10, 1))
    return (
        f"\n\nOn one {results['meta']['cuda_device']} ([its page](benchmarks/cuda/RESULTS.md)): beam 10 {ten:g} and "
        f"beam 1 {one:g} times faster than stock ESPnet on the same GPU."
    )


def _adapted(ways: Mapping[str, Any]) -> str:
    """Which way of adapting ten speakers each of the two goals was measured on."""
    plain = ways["plain"]
    kept = [
        (_layers(ways[key]), f"{what} ({shown(ways[ways[key]])} for {shown(plain)})")
        for key, what, shown in (
            ("way", "keep the plain loop's teacher-forced dev accuracy", lambda way: f"{way['dev_accuracy']:.4f}"),
            ("way_by_words", "make no more dev word errors than it", lambda way: f"{100 * way['wer']:.2f} %"),
        )
        if ways[key]
    ]
    if not kept:
        return "No way of adapting ten speakers loses nothing."
    return "Of the ways to adapt ten speakers, " + "; ".join(f"{layers} {what}" for layers, what in kept) + "."


def _layers(way: str) -> str:
    return f"the {way.split('_')[1]} uppermost layers" if way.startswith("top_") else "all layers"


if __name__ == "__main__":
    path = ROOT / "README.md"
    write_text(path, drawn(path.read_text(encoding="utf-8")))
