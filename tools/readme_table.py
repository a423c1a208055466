#!/usr/bin/env python3
"""Draw the tables of README.md and docs/measured.md from the results that are stored in egs/ and benchmarks/."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.page import GOALS, measured, unmet
from benchmarks.page_adapting import in_words
from benchmarks.shown import Results
from pqm_plugin.files import read_json, write_text
from pqm_plugin.report.gains import summary_table
from pqm_plugin.report.tables import label_line, number, table, together
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
_HOW = {"by_sound": "a Gaussian of the voice's cepstra", "by_words": "the adapters' own likelihood"}
_HARD = {"coils on the tongue": "usc_ema", "accents": "common_voice", "learners": "speechocean762"}
_FIRST = {
    "Conformer": {"native readers": "egs/librispeech/results.json"}
    | {f"hard: {what}": f"egs/own/results_{name}.json" for what, name in _HARD.items()},
    "Whisper tiny.en": {f"hard: {what}": f"egs/own/results_{name}_tiny.json" for what, name in _HARD.items()},
}


def drawn(page: str, *tables: str) -> str:
    """The text of a page with its tables drawn anew, in their order."""
    left = iter(tables)
    return _BLOCKS.sub(lambda _: f"{next(left).strip()}\n\n", page)


def pages() -> dict[Path, tuple[str, ...]]:
    """The pages that have tables, and what these are."""
    return {
        ROOT / "README.md": (first(),),
        ROOT / "docs/measured.md": (systems(), speed()),
        ROOT / "docs/serve.md": (who(),),
    }


def who() -> str:
    """How often the right one of the enrolled is found."""
    found = read_json(ROOT / "benchmarks/who.json")
    rows = [
        [f"{how}: {what}", str(of["voices"]), str(of["clips"]), number(of["right_percent"], 1)]
        for key, how in _HOW.items()
        for what, of in found[key].items()
    ]
    return table(("by", "voices", "clips", "right, %"), rows)


def first() -> str:
    """Rows of size and word errors for each base, and one line on what of them is the speaker's own."""
    paths = [ROOT / path for files in _FIRST.values() for path in files.values()]
    found = {base: {name: read_json(ROOT / path) for name, path in files.items()} for base, files in _FIRST.items()}
    columns = list(dict.fromkeys(name for files in found.values() for name in files))
    rows = [row for base, files in found.items() for row in _rows(base, files, columns)]
    drawn_table = table(("model", "MB", *columns), rows, text_columns=1)
    said = together(read_words(path.parent).labels_of(path.name) for path in paths)
    return f"{drawn_table}\n{label_line(said)}\n{_own_share(found)}"


def _rows(base: str, files: dict[str, Results], columns: list[str]) -> Iterator[list[str]]:
    """Of one base: words of a Whisper are compared after its English normaliser."""
    key = "wer_normalized" if base.startswith("Whisper") else "wer"
    [some, *_] = files.values()
    for system, what in _ROWS.items():
        entry = some["systems"][system]
        size_bytes = entry["model_bytes"] + (entry["adapter_bytes"] or 0)
        wers = [number(100 * files[name]["systems"][system][key], 1) if name in files else "–" for name in columns]
        yield [f"{base}, {what}", number(size_bytes / 1e6, 1), *wers]


def _own_share(found: dict[str, dict[str, Results]]) -> str:
    """What the speaker's own adapter brings against other speakers' adapters, said with its intervals."""
    parts, shown = [], []
    for base, files in found.items():
        key = "normalized" if base.startswith("Whisper") else ""
        for name, results in files.items():
            [one] = [each for each in results["comparisons"] if each["against"] == "nf4+others"]
            one = one[key] if key else one
            low, high = (100 * end for end in one["ci95"])
            parts.append(f"{round(100 * one['relative_wer_reduction'])} % [{low:.0f}, {high:.0f}] ({base}, {name})")
            shown.append(low > 0)
    verdict = "a difference is shown" if all(shown) else "no difference is shown" if not any(shown) else "in part shown"
    return (
        f"The speaker's own share, fewer errors with one's own adapter than with other speakers' (95 % interval): "
        f"{', '.join(parts)}: {verdict}. So `pqm enroll` measures yours, and keeps the better model."
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
