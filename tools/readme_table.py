#!/usr/bin/env python3
"""Draw the first table of README.md from the results that are stored in egs/: tools/readme_table.py."""

import re
from pathlib import Path

from pqm_plugin.files import read_json, write_text
from pqm_plugin.report.summary import summary_table

ROOT = Path(__file__).resolve().parents[1]
CONDITIONS = {
    "joint decoding": "results.json",
    "CTC alone": "results_ctc.json",
    "device and room": "results_device.json",
}
_BLOCK = re.compile(r"(?<=<!-- table: tools/readme_table.py -->\n\n).*?(?=\n\n<!-- end of table -->)", re.S)


def drawn(readme: str) -> str:
    """The text of README.md with its table drawn anew."""
    folder = ROOT / "egs/librispeech"
    found = {name: read_json(folder / file) for name, file in CONDITIONS.items() if (folder / file).is_file()}
    table = summary_table(found)
    return _BLOCK.sub(lambda _: table.strip(), readme)


if __name__ == "__main__":
    path = ROOT / "README.md"
    write_text(path, drawn(path.read_text(encoding="utf-8")))
