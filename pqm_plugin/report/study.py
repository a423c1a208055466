"""The part of the page that a study fills: what a gain is made of, its spread, and what each setting does."""

import json
import re
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from pqm_plugin.report.markdown import NOTHING, cell, megabytes, number, percent, percent_interval, table
from pqm_plugin.report.systems import ordered
from pqm_plugin.report.tables import Results, float32_bytes

Study = Mapping[str, Any]
_OTHER = re.compile(r"nf4\+other\d*")
SEEDS, MINUTES = "seeds", "minutes"
"""Sections whose tables have rows of their own; minutes have a figure too, all others share one."""
_STARTS = {"nf4": "4 bits without adapter", "nf4+sat": "the speaker-independent adapter"}
_GAIN_NOTE = "Domain, text format and the repair of 4 bits any speaker's adapter gains; the last step is one's own."


def reference(study: Study, results: Results) -> Results:
    """What the recipe's own settings gave when the cells were made; for a study that does not tell, the results."""
    kept: Results = study.get("reference", results)
    return kept


def made_sentence(study: Study, section: str, results: Results) -> str:
    """Say by which code, when and where the cells of a section were made; "" if they do not tell."""
    rows = [row["meta"] for row in study["cells"] if row["section"] == section and "meta" in row]
    if not rows:
        return ""
    said = {name: ", ".join(dict.fromkeys(str(row[name]) for row in rows)) for name in ("commit", "date", "hardware")}
    seeds = ", ".join(dict.fromkeys(str(row["seed"]) for row in rows))
    whole = f"Cells of commit {said['commit']}, {said['date']}; seed {seeds}; {said['hardware']}."
    own, now = reference(study, results).get("meta", {}), results["meta"]
    if any(own.get(key) != now.get(key) for key in ("commit", "date")):
        whole += (
            f" They were made before the tables above: what the recipe has is here that of commit {own['commit']}, "
            f"{own['date']}, from which each cell differs by what it names."
        )
    return whole


def gain_table(results: Results) -> str:
    """Split what a speaker's own adapter gains over 4 bits into any speaker's share and one's own; "" if it cannot be.

    The gain of another speaker's adapter is the mean over all of `nf4+other`, `nf4+other2`, …: with as many as there
    are other speakers, over every pair.
    """
    systems = results["systems"]
    others = [key for key in systems if _OTHER.fullmatch(key)]
    if not others or not {"nf4", "nf4+speaker"} <= systems.keys():
        return ""
    nf4, own = systems["nf4"]["wer"], systems["nf4+speaker"]["wer"]
    other = mean(systems[key]["wer"] for key in others)
    start = systems.get("nf4+sat", {}).get("wer")
    steps = [("4 bits without adapter", nf4, None)]
    steps += [("speaker-independent LoRA", start, nf4)] if start is not None else []
    steps += [
        (f"another speaker's LoRA, mean of {len(others)}", other, nf4 if start is None else start),
        ("one's own LoRA", own, other),
    ]
    rows = [
        [
            name,
            percent(wer),
            NOTHING if before is None else percent((before - wer) / before, 1),
            NOTHING if before is None or nf4 == own else percent((before - wer) / (nf4 - own), 1),
        ]
        for name, wer, before in steps
    ]
    return table(["step", "WER %", "fewer errors than the step before %", "share of the whole gain %"], rows)


def section_table(study: Study, section: str, results: Results) -> str:
    """The cells of a section: what differs, and what each system makes of it."""
    cells = [row for row in study["cells"] if row["section"] == section]
    keys = ordered({key for row in cells for key in row["systems"]})
    headings = ["cell", "what differs"]
    for key in keys:
        headings += [f"`{key}` WER %", "95 % interval"]
    headings += ["base MB", "adapter MB", "times smaller"]
    full = float32_bytes(results)
    rows = [_cell_row(row, keys, full) for row in _with_ends(section, cells, keys, results)]
    if section == SEEDS:
        rows += _spread(cells, keys, results)
    return table(headings, rows, text_columns=2)


def _with_ends(
    section: str, cells: Sequence[Mapping[str, Any]], keys: Sequence[str], results: Results
) -> list[Mapping[str, Any]]:
    """The cells, with what the recipe's own settings gave in its place."""
    own = {key: results["systems"][key] for key in keys if key in results["systems"]}
    here = {"cell": "as the recipe has it", "changes": {}, "systems": own}
    if section != MINUTES:
        return [here, *cells]
    sat = results["systems"].get("nf4+sat")
    none = [{"cell": "none", "changes": {}, "systems": {"nf4+speaker": sat}}] if sat else []
    return [*none, *cells, {**here, "cell": "all"}]


def _cell_row(row: Mapping[str, Any], keys: Sequence[str], full: int | None) -> list[str]:
    systems = row["systems"]
    said = [cell(row["cell"]), cell(f"`{json.dumps(row['changes'])}`") if row["changes"] else NOTHING]
    for key in keys:
        entry = systems.get(key)
        said += [percent(entry["wer"]), percent_interval(entry["wer_ci95"])] if entry else [NOTHING, NOTHING]
    base = max((entry["model_bytes"] for entry in systems.values()), default=0)
    adapter = max((entry["adapter_bytes"] for entry in systems.values()), default=0)
    smaller = number(full / (base + adapter), 2) if full and base else NOTHING
    return [*said, megabytes(base), megabytes(adapter) if adapter else NOTHING, smaller]


def _spread(cells: Sequence[Mapping[str, Any]], keys: Sequence[str], results: Results) -> list[list[str]]:
    """Mean and range over the seeds, the recipe's own among them."""
    rows = [["mean over seeds", NOTHING], ["lowest to highest", NOTHING]]
    for key in keys:
        found = [row["systems"][key]["wer"] for row in cells if key in row["systems"]]
        found += [results["systems"][key]["wer"]] if key in results["systems"] else []
        rows[0] += [percent(mean(found)), NOTHING]
        rows[1] += [f"{percent(min(found))} to {percent(max(found))}", NOTHING]
    return [[*row, NOTHING, NOTHING, NOTHING] for row in rows]


def minutes_points(
    study: Study, results: Results, system: str = "nf4+speaker"
) -> list[tuple[float, float, list[float]]]:
    """Minutes of speech, WER and its interval, for the figure: 0 is the speaker-independent adapter alone."""
    sat = results["systems"].get("nf4+sat")
    points = [(0.0, sat["wer"], sat["wer_ci95"])] if sat else []
    for row in study["cells"]:
        if row["section"] == MINUTES and system in row["systems"]:
            entry = row["systems"][system]
            points.append((float(row["changes"]["adapt_minutes"]), entry["wer"], entry["wer_ci95"]))
    return sorted(points)


def crossing_sentence(study: Study, results: Results) -> str:
    """Say from how many minutes on a speaker's adapter is better than full precision."""
    full = results["systems"].get("full")
    points = minutes_points(study, results)
    if full is None or not points:
        return ""
    every = [*points, (float("inf"), results["systems"]["nf4+speaker"]["wer"], [])]
    below = [minutes for minutes, wer, _ in every if wer < full["wer"]]
    if not below:
        return f"No amount of speech here brings it below full precision ({percent(full['wer'])} %)."
    first = min(below)
    when = "with all there is" if first == float("inf") else f"from {first:g} minutes on, of those measured"
    return f"It is below full precision ({percent(full['wer'])} %) {when}."


def unsupervised_sentence(results: Results) -> str:
    """Say which shares of what transcripts gain are left without them; "" if unknown.

    A gain whose interval includes zero is not divided by.
    """
    systems = results["systems"]
    if not {"nf4+speaker", "nf4+speaker-unsup"} <= systems.keys():
        return ""
    said = []
    for start in (key for key in _STARTS if key in systems):
        share = _kept(results, start)
        if share is None:
            said.append(f"no share of what they gain over {_STARTS[start]}, since no such gain is shown")
        else:
            said.append(f"{percent(share, 0)} % of what they gain over {_STARTS[start]}")
    return f"What is left of the gain of transcripts without them: {'; '.join(said)}." if said else ""


def _kept(results: Results, start: str) -> float | None:
    """The share of the gain over a system that is kept without transcripts; None if transcripts show no gain there."""
    before, own, heard = (results["systems"][key]["errors"] for key in (start, "nf4+speaker", "nf4+speaker-unsup"))
    shown = [row["ci95"][0] > 0 for row in results["comparisons"] if _pair(row) == ("nf4+speaker", start)]
    return (before - heard) / (before - own) if any(shown) else None


def _pair(comparison: Mapping[str, Any]) -> tuple[str, str]:
    return comparison["system"], comparison["against"]


def study_parts(results: Results, study: Study, label: str, figures: Mapping[str, str]) -> list[str]:
    """The study's part of a section of the page.

    Args:
        study: empty where none was run.
        label: what must stand beside every table.
        figures: links of the figures that were drawn, by `minutes` and `settings`.
    """
    parts: list[str] = []
    if gains := gain_table(results):
        said = " ".join(filter(None, [_GAIN_NOTE, unsupervised_sentence(results)]))
        parts += ["### What the gain is made of\n", label, gains, said + "\n"]
    for section in dict.fromkeys(row["section"] for row in study.get("cells", ())):
        own = reference(study, results)
        parts += [f"### Study: {section}\n", label, section_table(study, section, own)]
        parts += [said + "\n"] if (said := made_sentence(study, section, results)) else []
        if section == MINUTES:
            parts += [crossing_sentence(study, own) + "\n"]
            parts += [f"![{_minutes_alt(study, own)}]({figures[MINUTES]})\n"] if MINUTES in figures else []
    if "settings" in figures:
        parts.append(f"![Word error rate of every cell against the bytes of base and adapter]({figures['settings']})\n")
    return parts


def _minutes_alt(study: Study, results: Results) -> str:
    said = [f"{minutes:g} minutes {percent(wer)} %" for minutes, wer, _ in minutes_points(study, results)]
    return f"Word error rate against minutes of adaptation speech: {', '.join(said)}"


def settings_points(study: Study) -> list[tuple[str, str, int, float]]:
    """Cell, system, bytes of base and adapter, and WER, of the cells that are neither seeds nor amounts of speech."""
    return [
        (row["cell"], key, entry["model_bytes"] + entry["adapter_bytes"], entry["wer"])
        for row in study["cells"]
        if row["section"] not in (SEEDS, MINUTES)
        for key, entry in row["systems"].items()
    ]
