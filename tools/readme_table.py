#!/usr/bin/env python3
"""Draw the tables of README.md from the results that are stored in egs/ and benchmarks/: tools/readme_table.py."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.page import GOALS
from benchmarks.results import value
from pqm_plugin.files import read_json, write_text
from pqm_plugin.report.markdown import table
from pqm_plugin.report.summary import summary_table

ROOT = Path(__file__).resolve().parents[1]
CONDITIONS = {
    "joint decoding": "results.json",
    "CTC alone": "results_ctc.json",
    "device and room": "results_device.json",
}
_BLOCKS = re.compile(r"(?<=<!-- table: tools/readme_table.py -->\n\n).*?(?=\n\n<!-- end of table -->)", re.S)


def drawn(readme: str) -> str:
    """The text of README.md with its tables drawn anew: of systems first, of speed second."""
    tables = iter((systems(), speed()))
    return _BLOCKS.sub(lambda _: next(tables).strip(), readme)


def systems() -> str:
    """Every system under every condition that was scored."""
    folder = ROOT / "egs/librispeech"
    return summary_table(
        {name: read_json(folder / file) for name, file in CONDITIONS.items() if (folder / file).is_file()}
    )


def speed() -> str:
    """The ratios of `make bench` that its page has goals for."""
    results = read_json(ROOT / "benchmarks/results.json")
    return table(("what", "measured"), [[what, f"{value(results, key):g}"] for key, what, *_ in GOALS])


if __name__ == "__main__":
    path = ROOT / "README.md"
    write_text(path, drawn(path.read_text(encoding="utf-8")))
