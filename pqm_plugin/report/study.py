"""The part of the page that a study fills: the spread over seeds, minutes of speech, and what each setting does."""

import json
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from pqm_plugin.report.gains import gain_parts
from pqm_plugin.report.markdown import NOTHING, cell, megabytes, number, percent, percent_interval, table
from pqm_plugin.report.minutes import MINUTES, all_name, crossing_sentence, minutes_alt
from pqm_plugin.report.systems import SAT, ordered
from pqm_plugin.report.tables import Results, float32_bytes

Study = Mapping[str, Any]
SEEDS = "seeds"
"""The section whose table has mean and range; minutes have rows and a figure of their own, all others share one."""
SEEDED = (SAT, "nf4+speaker")
_PARTLY = "**The study is of commit {}: not every cell of the recipe's study is there for the settings above.**"


def reference(study: Study, results: Results) -> Results:
    """What the recipe's own settings gave when the cells were made; for a study that does not tell, the results."""
    kept: Results = study.get("reference", results)
    heard = results.get("meta", {}).get("adapt_minutes")
    # The same readers' speech, which studies of earlier versions do not tell.
    return {**kept, "meta": {"adapt_minutes": heard, **kept.get("meta", {})}} if heard else kept


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
            " They are of another run than the tables above: what the recipe has is here that of commit "
            f"{own['commit']}, {own['date']}, {own['hardware']}, from which each cell differs by what it names."
        )
        whole += _above_sentence(own, section, results)
    return whole


def _above_sentence(own: Mapping[str, Any], section: str, results: Results) -> str:
    """Of seeds, how far two runs of one seed are apart on two processors; "" where both ran on one."""
    if section != SEEDS or own["hardware"] == results["meta"].get("hardware"):
        return ""
    rates = ", ".join(
        f"`{key}` {percent(results['systems'][key]['wer'])} %" for key in SEEDED if key in results["systems"]
    )
    return (
        " Another processor rounds sums in another order, and the same seed then learns another adapter: in the tables "
        f"above seed {results['meta']['seed']} has {rates}."
    )


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
    sat = results["systems"].get(SAT)
    none = [{"cell": "none", "changes": {}, "systems": {"nf4+speaker": sat}}] if sat else []
    return [*none, *cells, {**here, "cell": all_name(results)}]


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


def study_parts(
    results: Results, study: Study, label: str, figures: Mapping[str, str], study_of: str = ""
) -> list[str]:
    """The study's part of a section of the page.

    Args:
        study: empty where none was run.
        label: what must stand beside every table.
        figures: links of the figures that were drawn, by `minutes` and `settings`.
        study_of: the commit whose settings the cells are of, or are to be, where not every cell is of these results.
    """
    parts = gain_parts(results, label)
    for section in dict.fromkeys(row["section"] for row in study.get("cells", ())):
        own = reference(study, results)
        parts += [f"### Study: {section}\n", label, section_table(study, section, own)]
        said = made_sentence(study, section, results) + (f" {_PARTLY.format(study_of)}" if study_of else "")
        parts += [said.strip() + "\n"] if said else []
        if section == MINUTES:
            parts += [crossing_sentence(study, own) + "\n"]
            parts += [f"![{minutes_alt(study, own)}]({figures[MINUTES]})\n"] if MINUTES in figures else []
    if "settings" in figures:
        parts.append(f"![Word error rate of every cell against the bytes of base and adapter]({figures['settings']})\n")
    return parts


def settings_points(study: Study) -> list[tuple[str, str, int, float]]:
    """Cell, system, bytes of base and adapter, and WER, of the cells that are neither seeds nor amounts of speech."""
    return [
        (row["cell"], key, entry["model_bytes"] + entry["adapter_bytes"], entry["wer"])
        for row in study["cells"]
        if row["section"] not in (SEEDS, MINUTES)
        for key, entry in row["systems"].items()
    ]
