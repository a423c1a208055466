"""What a study shows: the spread over seeds, minutes of speech, what each setting does, and the cost of each layer."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from pqm_plugin.report.figures import (
    FAINT,
    GRID,
    bare,
    figure,
    head_inch,
    headline,
    marker_style,
    plain_log_ticks,
    spread,
)
from pqm_plugin.report.gains import gain_parts
from pqm_plugin.report.tables import (
    NOTHING,
    OWN,
    SAT,
    Results,
    cell,
    float32_bytes,
    looks,
    megabytes,
    number,
    ordered,
    percent,
    percent_interval,
    table,
)

MINUTES = "minutes"
"""The section of a study whose cells differ in the amount of speech."""
Point = tuple[float, float, Sequence[float]]


def minutes_points(study: Mapping[str, Any], results: Results) -> list[Point]:
    """Minutes of speech, WER and its interval: 0 is the speaker-independent adapter alone, the last all there is.

    All is drawn at the speakers' mean, and left out where that is not known.
    """
    points = [_point(0.0, results["systems"][SAT])] if SAT in results["systems"] else []
    points += [
        _point(float(row["changes"]["adapt_minutes"]), row["systems"][OWN])
        for row in study["cells"]
        if row["section"] == MINUTES and OWN in row["systems"]
    ]
    heard = heard_minutes(results)
    points += [_point(mean(heard), results["systems"][OWN])] if heard and OWN in results["systems"] else []
    return sorted(points)


def _point(minutes: float, entry: Mapping[str, Any]) -> Point:
    return minutes, entry["wer"], entry["wer_ci95"]


def heard_minutes(results: Results) -> list[float]:
    """Minutes that each speaker's adapter learned from; empty for results of earlier versions, which do not tell."""
    return list(results.get("meta", {}).get("adapt_minutes", {}).values())


def all_name(results: Results) -> str:
    """What all the speech there is comes to."""
    heard = heard_minutes(results)
    if not heard:
        return "all"
    return f"all: {mean(heard):.1f} minutes on average, {min(heard):.1f} to {max(heard):.1f}"


def crossing_sentence(study: Mapping[str, Any], results: Results) -> str:
    """Say with how much speech the 4-bit model is better than full precision, without adapter and with SAT's."""
    points = [point[:2] for point in minutes_points(study, results)]
    own = results["systems"].get(OWN)
    if not points or own is None:
        return ""
    if not heard_minutes(results):
        points.append((float("inf"), own["wer"]))
    said = [
        _crossing(points, name, results["systems"][name]["wer"])
        for name in ("full", "full+sat")
        if name in results["systems"]
    ]
    return " ".join(said)


def _crossing(points: Sequence[tuple[float, float]], name: str, wer: float) -> str:
    """From which amount on, of those measured, every point lies below a system; or at which it does."""
    below = [minutes for minutes, ours in points if ours < wer]
    against = f"`{name}` ({percent(wer)} %)"
    if not below:
        return f"No amount of speech here brings it below {against}."
    if 0.0 in below:
        alone = f"The speaker-independent adapter alone, 0 minutes, is below {against} already"
        above = [_amount(minutes) for minutes, _ in points if minutes not in below]
        return (
            f"{alone}, but not what has learned from {', '.join(above)}."
            if above
            else f"{alone}, and so is every amount of speech."
        )
    if len(below) == sum(minutes >= below[0] for minutes, _ in points):
        when = "with all there is" if below[0] == points[-1][0] else f"from {_amount(below[0])} on, of those measured"
        return f"It is below {against} {when}."
    return f"It is below {against} with {', '.join(map(_amount, below))} alone."


def _amount(minutes: float) -> str:
    return "all there is" if minutes == float("inf") else f"{minutes:.2g} minutes"


def minutes_alt(study: Mapping[str, Any], results: Results) -> str:
    """The figure in words."""
    said = [f"{_amount(minutes)} {percent(wer)} %" for minutes, wer, _ in minutes_points(study, results)]
    return f"Word error rate against minutes of adaptation speech: {', '.join(said)}"


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
    """Of seeds, what the seed of the tables above has there; "" where both ran on one processor."""
    if section != SEEDS or own["hardware"] == results["meta"].get("hardware"):
        return ""
    rates = ", ".join(
        f"`{key}` {percent(results['systems'][key]['wer'])} %" for key in SEEDED if key in results["systems"]
    )
    return f" In the tables above, on another processor, seed {results['meta']['seed']} has {rates}."


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


_SENSITIVITY_NOTE = "Loss in nats per dev utterance, of the whole model; WER by the family's fastest decoding.\n"
_SAID = ("commit", "command", "hardware", "date")


def sensitivity_parts(records: Mapping[str, Mapping[str, Any]], tables: Sequence[str]) -> list[str]:
    """The part of the page, around `tables`; a record may be older than its `meta`.

    Args:
        records: by base what the stage of that name wrote.
    """
    measured = {base: _measured(record) for base, record in records.items()}
    said = "".join(f"* {base}: {how}\n" for base, how in measured.items() if how)
    return ["## What each kind of layer costs in 4 bits\n", *tables, _SENSITIVITY_NOTE, said]


def _measured(record: Mapping[str, Any]) -> str:
    quantize, meta = record.get("request", {}).get("quantize", {}), record.get("meta", {})
    parts = [f"blocks of {quantize['block_size']}, each weight rounded to its nearest level"] if quantize else []
    parts += [f"{key} {f'`{meta[key]}`' if key in _SAID[:2] else meta[key]}" for key in _SAID if key in meta]
    return "; ".join(parts)


_WIDTH, _HEIGHT = 8.0, 3.8  # inches
_LEVELS = ("full", "full+sat", "nf4")


def minutes_figure(results: Results, study: Study, path: Path, label: str) -> None:
    """Draw the WER of the speaker's adapter, with its interval, against minutes of adaptation speech."""
    points = minutes_points(study, results)
    look = looks(["nf4+speaker"])["nf4+speaker"]
    head = head_inch(label, _WIDTH)
    with figure(path, _WIDTH, _HEIGHT) as drawn:
        headline(drawn, "Word error rate against minutes of adaptation speech", label, left_inch=0.2)
        axes = drawn.add_axes(
            (0.7 / _WIDTH, 0.55 / _HEIGHT, (_WIDTH - 1.35) / _WIDTH, (_HEIGHT - head - 0.7) / _HEIGHT)
        )
        minutes, wers = [point[0] for point in points], [100 * point[1] for point in points]
        for at, _, (low, high) in points:
            axes.plot([at, at], [100 * low, 100 * high], color=look.colour, linewidth=1.6, alpha=0.55)
        axes.plot(minutes, wers, color=look.colour, linewidth=1)
        axes.plot(minutes, wers, **marker_style(look))
        levels = {name: 100 * results["systems"][name]["wer"] for name in _LEVELS if name in results["systems"]}
        axes.set_ylim(0, 1.05 * max([*levels.values(), *(100 * point[2][1] for point in points)]) or 1.0)
        _draw_levels(axes, levels)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        bare(axes)
        axes.set_xlabel("minutes of the speaker (two thirds train, one third dev)")
        axes.set_ylabel("WER %, with 95 % interval")


def _draw_levels(axes: Any, wers: Mapping[str, float]) -> None:
    """A line at the WER of each system that hears nothing of the speaker; their names moved apart."""
    names = sorted(wers, key=lambda name: -wers[name])
    heights = spread([wers[name] for name in names], axes.get_ylim()[1] * 0.06)
    for name, height in zip(names, heights, strict=True):
        axes.axhline(wers[name], color=FAINT, linewidth=0.8, linestyle=(0, (2, 2)))
        axes.annotate(name, (1, height), xycoords=("axes fraction", "data"), xytext=(4, 0),
                      textcoords="offset points", va="center", fontsize=8.5)  # fmt: skip


def settings_figure(results: Results, study: Study, path: Path, label: str) -> None:
    """Draw the WER of every cell that changes the model against its bytes, the recipe's own systems among them."""
    points = settings_points(study)
    own = {key: entry for key, entry in results["systems"].items() if entry["model_bytes"] + entry["adapter_bytes"]}
    style = looks([*own, *(key for _, key, _, _ in points)])
    head, height = head_inch(label, _WIDTH), 5.0
    with figure(path, _WIDTH, height) as drawn:
        headline(drawn, "Word error rate against size, every setting", label, left_inch=0.2)
        axes = drawn.add_axes((0.7 / _WIDTH, 0.55 / height, (_WIDTH - 1.0) / _WIDTH, (height - head - 0.7) / height))
        axes.set_xscale("log")
        for key, entry in own.items():
            size_mb = (entry["model_bytes"] + entry["adapter_bytes"]) / 1e6
            axes.plot(size_mb, 100 * entry["wer"], **marker_style(style[key], size=7.5))
            axes.annotate(key, (size_mb, 100 * entry["wer"]), xytext=(6, 3), textcoords="offset points", fontsize=8)
        for cell, key, size_bytes, wer in points:
            axes.plot(size_bytes / 1e6, 100 * wer, **marker_style(style[key], size=4.5))
            axes.annotate(cell, (size_bytes / 1e6, 100 * wer), xytext=(4, -7), textcoords="offset points",
                          fontsize=6.5, color=FAINT)  # fmt: skip
        axes.set_ylim(0, None)
        plain_log_ticks(axes)
        axes.grid(axis="both", color=GRID, linewidth=0.8)
        bare(axes)
        axes.set_xlabel("base and adapter on disk, MB (logarithmic)")
        axes.set_ylabel("WER %")
