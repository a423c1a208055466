#!/usr/bin/env python3
"""Draw the tables of README.md and docs/measured.md from the results that are stored in egs/ and benchmarks/."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.page import GOALS, measured, unmet
from benchmarks.page_adapting import in_words
from benchmarks.shown import Results
from pqm_plugin.files import read_json, write_text
from pqm_plugin.report.gains import summary_table
from pqm_plugin.report.tables import label_line, number, table
from pqm_plugin.stages.report import read_words

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
_BLOCKS = re.compile(r"(?<=<!-- table: tools/readme_table.py -->\n\n).*?(?=<!-- end of table -->)", re.S)


_ROWS = {
    "full": "full precision",
    "nf4": "4 bits",
    "nf4+sat": "4 bits, one adapter for everybody",
    "nf4+speaker": "4 bits, the speaker's own adapter",
}
_FIRST = {"native readers": "results.json", "the same through a device and a room": "results_device.json"}


def drawn(page: str, *tables: str) -> str:
    """The text of a page with its tables drawn anew, in their order."""
    left = iter(tables)
    return _BLOCKS.sub(lambda _: f"{next(left).strip()}\n\n", page)


def pages() -> dict[Path, tuple[str, ...]]:
    """The pages that have tables, and what these are."""
    return {ROOT / "README.md": (first(),), ROOT / "docs/measured.md": (systems(), speed())}


def first() -> str:
    """Four rows of size and word errors, and one line on what of it is the speaker's own."""
    folder = ROOT / "egs/librispeech"
    found = {name: read_json(folder / file) for name, file in _FIRST.items()}
    label = label_line(read_words(folder).labels_of(*_FIRST.values()))
    [small, *_] = found.values()
    rows = []
    for system, what in _ROWS.items():
        entry = small["systems"][system]
        size_bytes = entry["model_bytes"] + (entry["adapter_bytes"] or 0)
        wers = [number(100 * results["systems"][system]["wer"], 1) for results in found.values()]
        rows.append([what, number(size_bytes / 1e6, 1), *wers])
    base = small["meta"]["base"] if "base" in small["meta"] else "base"
    drawn_table = table((f"`{base}`", "MB", *(f"WER %, {name}" for name in found)), rows)
    return f"{drawn_table}\n{label}\n{_own_share(found)}"


def _own_share(found: dict[str, Results]) -> str:
    """What the speaker's own adapter brings against other speakers' adapters, said with its intervals."""
    parts, shown = [], []
    for name, results in found.items():
        [one] = [each for each in results["comparisons"] if each["against"] == "nf4+others"]
        low, high = (100 * end for end in one["ci95"])
        parts.append(f"{100 * one['relative_wer_reduction']:.0f} % [{low:.0f}, {high:.0f}] for {name}")
        shown.append(low > 0)
    verdict = "a difference is shown" if all(shown) else "no difference is shown" if not any(shown) else "in part shown"
    return (
        f"Of the gain, the speaker's own share is small here: fewer errors with one's own adapter than with other "
        f"speakers', {' and '.join(parts)}: {verdict}. `pqm enroll` measures yours."
    )


def systems() -> str:
    """Every system under every condition that was scored, below what must be said beside it."""
    folder = ROOT / "egs/librispeech"
    there = {name: file for name, file in CONDITIONS.items() if (folder / file).is_file()}
    label = label_line(read_words(folder).labels_of(*there.values()))
    return f"{label}\n{_COLUMNS}\n{summary_table({name: read_json(folder / file) for name, file in there.items()})}"


def speed() -> str:
    """The ratios of `make bench` that its page has goals for, which goals are missed, and how speakers were adapted."""
    results = read_json(ROOT / "benchmarks/results.json")
    found = table(("what", "measured"), [[what, measured(results, key)] for key, what, *_ in GOALS])
    missed = unmet(results)
    goals = f"Missed goals: {'; '.join(missed)}." if missed else "All goals are met."
    return f"{found}\n{goals} Ten speakers, {in_words(results)}{_by_process(results['decode'])}{_on_a_gpu()}"


def _by_process(found: Results) -> str:
    beams = {beam: found[f"beam{beam}"].get("processes") for beam in (10, 1)}
    said = [f"{one['speedup']['median']:g} times faster at beam {beam}" for beam, one in beams.items() if one]
    return f" With a process on each core, stock's too, decoding is {' and '.join(said)}." if said else ""


def _on_a_gpu() -> str:
    path = ROOT / "benchmarks/cuda/results.json"
    if not path.is_file():
        return ""
    results = read_json(path)
    ten, one = (results["decode"][f"beam{beam}"]["speedup"] for beam in (10, 1))
    return (
        f"\n\nOn one {results['meta']['cuda_device']} ([its page](../benchmarks/cuda/RESULTS.md)): beam 10 {ten:g} and "
        f"beam 1 {one:g} times faster than stock ESPnet on the same GPU{_left_out(results)}."
    )


def _left_out(results: Results) -> str:
    skipped = results["meta"].get("skipped", ())
    return f"; {' and '.join(f'{name}.py' for name in skipped)} was not run there" if skipped else ""


if __name__ == "__main__":
    for path, tables in pages().items():
        write_text(path, drawn(path.read_text(encoding="utf-8"), *tables))
