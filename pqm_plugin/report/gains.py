"""What systems gain: paired comparisons, parts of a gain over 4 bits, goals, and a first page's table."""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from pqm_plugin.report.tables import (
    BASE,
    NOTHING,
    OTHERS,
    OWN,
    SAT,
    Results,
    cell,
    describe,
    number,
    ordered,
    others_of,
    percent,
    percent_interval,
    table,
    times_smaller,
)

Row = Mapping[str, Any]

COMPARISONS_NOTE = (
    "Relative WER reduction: the share of the other system's word errors that is gone; negative where there are more. "
    "Normalised: the same after Whisper's English text normaliser, where a format that was learned counts for nothing. "
    "Probability of improvement: the share of resamples with fewer errors, ties counted half. Sign test: two-sided, "
    "over the speakers whose errors differ. Nothing here is corrected for so many comparisons: of twenty between "
    "systems that are alike, one is expected to look like a difference."
)
_HEADLINES = (
    *(("nf4", "full"), ("full+speaker", "full"), ("nf4+sat", "full+sat")),
    *(("nf4+speaker-unsup", "nf4+sat"), ("nf4+speaker-unsup", "nf4+speaker")),
)
_LEVEL = 0.05


def comparison(results: Mapping[str, Any], system: str, against: str) -> Row | None:
    """The row of a pair, or None; the mean of all others' adapters is the one other's where there is one."""
    others = others_of(results["systems"])
    if against == OTHERS and len(others) == 1:
        against = others[0]
    rows = results["comparisons"]
    return next((row for row in rows if (row["system"], row["against"]) == (system, against)), None)


def comparisons_table(results: Mapping[str, Any]) -> str:
    """How many fewer errors each system makes than another, and how sure that is."""
    headings = ["system", "against", "relative WER reduction %", "95 % interval", "probability of improvement"]
    headings += ["normalised: reduction %", "95 % interval"]
    # Results of earlier versions do not tell.
    told = all("speakers" in row for row in results["comparisons"])
    headings += ["speakers helped, harmed, unchanged", "sign test p"] if told else []
    rows = [
        [
            f"`{row['system']}`",
            _against(row),
            percent(row["relative_wer_reduction"], 1),
            percent_interval(row["ci95"], 1),
            number(row["p_improvement"], 3),
            percent(row["normalized"]["relative_wer_reduction"], 1),
            percent_interval(row["normalized"]["ci95"], 1),
            *(_speakers(row["speakers"]) if told else ()),
        ]
        for row in results["comparisons"]
    ]
    return table(headings, rows, text_columns=2)


def _against(row: Row) -> str:
    return f"`{row['against']}`" + (f", mean of {len(row['mean_of'])}" if "mean_of" in row else "")


def _speakers(counts: Mapping[str, Any]) -> tuple[str, str]:
    return f"{counts['helped']}, {counts['harmed']}, {counts['unchanged']}", number(counts["sign_test_p"], 3)


def headlines(results: Mapping[str, Any]) -> list[str]:
    """Sentences for what quantising costs and what adapters bring; the table has the rest."""
    pooled = any(row["against"] == OTHERS for row in results["comparisons"])
    said = []
    for row in results["comparisons"]:
        pair = (row["system"], row["against"])
        # One of several others is no better a control than their mean.
        own = row["system"] == OWN and not (pooled and row["against"] == "nf4+other")
        if own or pair in _HEADLINES:
            said.append(comparison_sentence(row))
    return said


def comparison_sentence(row: Row) -> str:
    """Say what one comparison shows, and no more than it shows."""
    reduction, (low, high) = row["relative_wer_reduction"], row["ci95"]
    who = f"`{row['system']}` against {_against(row)}:"
    if reduction is None:
        return f"{who} `{row['against']}` makes no error, so there is nothing to reduce."
    if reduction == low == high == 0:
        return f"{who} as many word errors, in every resample."
    said = f"{who} {_change(reduction)} word errors, 95 % interval from {_change(low)} to {_change(high)}."
    if includes_zero(row["ci95"]):
        said += f" The interval includes zero{_by_speakers(row)}."
    return said + _normalized(row)


def whole_sentence(row: Row) -> str:
    """The sentence of a comparison with its sign test, and both again after normalisation."""
    found = row.get("normalized")
    if "speakers" not in row or not found or "speakers" not in found or found["relative_wer_reduction"] is None:
        return comparison_sentence(row)
    low, high = found["ci95"]
    told = comparison_sentence({key: value for key, value in row.items() if key != "normalized"})
    said = (
        f"{told} Speakers: {_counted(row)}. Normalised {_change(found['relative_wer_reduction'])}, from {_change(low)}"
    )
    zero = "includes zero" if includes_zero(found["ci95"]) else "excludes zero"
    return f"{said} to {_change(high)}, which {zero}; speakers: {_counted(found)}."


def _counted(row: Row) -> str:
    counts = row["speakers"]
    said = f"{counts['helped']} helped, {counts['harmed']} harmed, {counts['unchanged']} unchanged"
    return said + ("" if counts["sign_test_p"] is None else f", sign test p = {number(counts['sign_test_p'], 3)}")


def _by_speakers(row: Row) -> str:
    """What follows from an interval that includes zero, unless the speakers say otherwise."""
    counts = row.get("speakers")
    if not counts or counts["sign_test_p"] is None or counts["sign_test_p"] >= _LEVEL:
        return ": no difference is shown"
    helped, harmed, p = counts["helped"], counts["harmed"], number(counts["sign_test_p"], 3)
    return f", but the sign test over speakers shows a difference: {helped} helped, {harmed} harmed, p = {p}"


def _normalized(row: Row) -> str:
    """The normalised result where it and the raw one disagree about zero."""
    found = row.get("normalized")
    if not found or found["relative_wer_reduction"] is None:
        return ""
    included = includes_zero(found["ci95"])
    if included == includes_zero(row["ci95"]):
        return ""
    low, high = found["ci95"]
    said = f" Normalised {_change(found['relative_wer_reduction'])}, from {_change(low)} to {_change(high)}, which "
    return said + ("includes zero: beside the text format no difference is shown." if included else "excludes zero.")


def includes_zero(ci95: Sequence[float | None]) -> bool:
    """Whether an interval, in which None is no bound, leaves open that there is no difference."""
    low, high = ci95
    return (low is None or low <= 0) and (high is None or high >= 0)


def _change(reduction: float | None) -> str:
    if reduction is None:
        return "no bound"
    return f"{100 * abs(reduction):.1f} % {'more' if reduction < 0 else 'fewer'}"


UNSUPERVISED = "nf4+speaker-unsup"
_STARTS = {BASE: "4 bits without adapter", SAT: "the speaker-independent adapter"}
_PARTS = {
    "anyone": "any speaker's LoRA",
    "own": "only one's own LoRA",
    "whole": "both",
}


def gain_parts(results: Results, label: str) -> list[str]:
    """The part of the page, empty where no control was decoded; `label` stands beside every table."""
    steps = gain_table(results)
    if not steps:
        return []
    parts = ["### What the gain is made of\n", label, steps]
    if split := split_table(results):
        parts += [label, split]
    said = " ".join(filter(None, [own_sentence(results), unsupervised_sentence(results)]))
    return [*parts, said + "\n"] if said else parts


def gain_table(results: Results) -> str:
    """Split what a speaker's own adapter gains over 4 bits into any speaker's share and one's own; "" if it cannot be.

    The gain of another speaker's adapter is the mean over all of `nf4+other`, `nf4+other2`, …: with as many as there
    are other speakers, over every pair.
    """
    systems = results["systems"]
    others = others_of(systems)
    if not others or not {BASE, OWN} <= systems.keys():
        return ""
    nf4, own = systems[BASE]["wer"], systems[OWN]["wer"]
    other = mean(systems[key]["wer"] for key in others)
    start = systems.get(SAT, {}).get("wer")
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


def split_table(results: Results) -> str:
    """The two parts of the gain with their intervals; "" for results of earlier versions, which do not tell."""
    found = results.get("gain_split")
    if not found:
        return ""
    headings = ["gained by", "of the errors of `nf4` %", "95 % interval", "probability of a gain"]
    headings += ["normalised %", "95 % interval"]
    rows = [
        [
            _PARTS[row["part"]],
            percent(row["of_errors"], 1),
            percent_interval(row["ci95"], 1),
            number(row["p_improvement"], 3),
            percent(row["normalized"]["of_errors"], 1),
            percent_interval(row["normalized"]["ci95"], 1),
        ]
        for row in found
    ]
    return table(headings, rows)


def own_sentence(results: Results) -> str:
    """Say whether one's own adapter is better than the mean of all others'; "" where no interval tells."""
    row = comparison(results, OWN, OTHERS)
    return f"The speaker's own: {whole_sentence(row)}" if row and "ci95" in row else ""


def unsupervised_sentence(results: Results) -> str:
    """Say which shares of what transcripts gain are left without them; "" if unknown.

    A gain whose interval includes zero is not divided by. What the speaker-independent adapter keeps of it stands
    beside it: that much needs no speech of the speaker at all.
    """
    systems = results["systems"]
    if not {OWN, UNSUPERVISED} <= systems.keys():
        return ""
    said = []
    for start in (key for key in _STARTS if key in systems):
        share = kept(results, UNSUPERVISED, start)
        if share is None:
            said.append(f"no share of what they gain over {_STARTS[start]}, since no such gain is shown")
            continue
        said.append(f"{percent(share, 0)} % of what they gain over {_STARTS[start]}")
        if start != SAT and (nobody := kept(results, SAT, start)) is not None:
            said[-1] += f" ({percent(nobody, 0)} % are left with {_STARTS[SAT]} alone, which has heard none of them)"
    return f"What is left of the gain of transcripts without them: {'; '.join(said)}." if said else ""


def kept(results: Results, system: str, start: str) -> float | None:
    """The share of the gain of transcripts over `start` that a system has; None if no such gain is shown."""
    systems: Mapping[str, Any] = results["systems"]
    row = comparison(results, OWN, start)
    if row is None or not {system, start, OWN} <= systems.keys() or not (row["ci95"][0] or 0) > 0:
        return None
    before, own, left = (systems[key]["errors"] for key in (start, OWN, system))
    return float((before - left) / (before - own))


_SIGNS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
}
_GOALS_NOTE = (
    "Numbers in percent, sizes in times. A goal that was not measured, or that has nothing to be measured by (the "
    "share of a gain that is not shown), has a dash. An interval that includes zero shows no difference, whether a "
    "goal is met or not.\n"
)


@dataclass(frozen=True)
class Goal:
    """A bound on what a system reaches, in each of several results files.

    `measure` is one of: `reduction`, relative WER reduction against another system, %; `reduction_low`, the lower end
    of its interval; `increase`, relative increase of WER against another, %; `times_smaller`, than full precision,
    adapter included; `adapter_share`, parameters of the adapter, % of the base's; `kept`, the share of the gain of
    transcripts over another system that is left, %. `normalized`: word errors are counted after Whisper's English text
    normaliser, as for models that write case and punctuation.
    """

    what: str = ""
    of: tuple[str, ...] = ()
    measure: str = "reduction"
    system: str = "nf4+speaker"
    against: str = "full"
    sign: str = ">="
    goal: float = 0.0
    normalized: bool = False

    def __post_init__(self) -> None:
        if self.measure not in _MEASURES or self.sign not in _SIGNS:
            known = f"measure is one of {', '.join(_MEASURES)}, sign one of {' '.join(_SIGNS)}"
            raise ValueError(f"goal {self.what!r}: measure {self.measure!r}, sign {self.sign!r}: {known}")


def goals_parts(goals: Sequence[Goal], results: Mapping[str, Results], label: str) -> list[str]:
    """The part of the page, empty where the recipe has no goals; `results` by the names of their files."""
    if not goals:
        return []
    rows = [_goal_row(goal, name, results.get(name)) for goal in goals for name in goal.of]
    heads = ("goal", "results", "measured", "95 % interval", "bound", "met")
    return ["## Goals\n", label, table(heads, rows, text_columns=2), _GOALS_NOTE]


def _goal_row(goal: Goal, name: str, results: Results | None) -> list[str]:
    digits = 2 if goal.measure in ("times_smaller", "adapter_share") else 1
    value = _MEASURES[goal.measure](goal, results) if results and goal.system in results["systems"] else None
    bound = f"{goal.sign} {goal.goal:g}" + (", lower end" if goal.measure == "reduction_low" else "")
    if results is None or value is None:
        return [goal.what, f"`{name}`", NOTHING, NOTHING, bound, NOTHING]
    shown = _reduction(goal, results) if goal.measure == "reduction_low" else value
    met = "yes" if _SIGNS[goal.sign](value, goal.goal) else "no"
    said = f"{shown:.{digits}f}{_beside(goal, results)}"
    what = f"{goal.what}, normalised" if goal.normalized else goal.what
    return [what, f"`{name}`", said, _interval(goal, results), bound, met]


def _beside(goal: Goal, results: Results) -> str:
    """What of a gain the adapter keeps that has heard nobody: without it, a share that is kept says little."""
    nobody = kept(results, SAT, goal.against) if goal.measure == "kept" and goal.system != SAT else None
    return f" (`{SAT}` {100 * nobody:.1f})" if nobody is not None else ""


def _comparison(goal: Goal, results: Results) -> Row | None:
    row = comparison(results, goal.system, goal.against)
    return row["normalized"] if row and goal.normalized else row


def _reduction(goal: Goal, results: Results) -> float | None:
    row = _comparison(goal, results)
    return None if row is None or row["relative_wer_reduction"] is None else 100 * row["relative_wer_reduction"]


def _increase(goal: Goal, results: Results) -> float | None:
    reduction = _reduction(goal, results)
    return None if reduction is None else -reduction


def _reduction_low(goal: Goal, results: Results) -> float | None:
    row = _comparison(goal, results)
    low = row.get("ci95", (None,))[0] if row else None
    return None if low is None else 100 * low


def _kept(goal: Goal, results: Results) -> float | None:
    share = kept(results, goal.system, goal.against)
    return None if share is None else 100 * share


def _adapter_share(goal: Goal, results: Results) -> float | None:
    return 100 * float(results["systems"][goal.system]["adapter_fraction"])


_MEASURES: dict[str, Callable[[Goal, Results], float | None]] = {
    "reduction": _reduction,
    "reduction_low": _reduction_low,
    "increase": _increase,
    "times_smaller": lambda goal, results: times_smaller(results, goal.system),
    "adapter_share": _adapter_share,
    "kept": _kept,
}


def _interval(goal: Goal, results: Results) -> str:
    row = _comparison(goal, results)
    if goal.measure not in ("reduction", "increase", "reduction_low") or not row or "ci95" not in row:
        return NOTHING
    low, high = row["ci95"]
    if goal.measure == "increase":
        low, high = (None if end is None else -end for end in (high, low))
    return percent_interval((low, high), 1)


_REFERENCE = "full"
_SEVERAL = re.compile(r"\+[a-z-]+[0-9]+$")


def summary_table(conditions: Mapping[str, Results]) -> str:
    """Size of every system and, for each condition, its WER and its relative reduction against `full`.

    The reduction has its interval, and stands once as it is and once after normalisation, where a text format that was
    learned counts for nothing.

    Systems with the adapter of another speaker are shown once: where there are several such pairings, by the first.

    Args:
        conditions: results by the words that stand above their columns; the first tells the sizes.
    """
    first = next(iter(conditions.values()))
    shown = [system for system in ordered(first["systems"]) if not _SEVERAL.search(system)]
    headings = ["system", "what it is", "MB", "times smaller"]
    for name in conditions:
        headings += [f"WER %, {name}", f"against `{_REFERENCE}` %", "normalised %"]
    rows = []
    for system in shown:
        entry = first["systems"][system]
        size_bytes = (entry["model_bytes"] or 0) + (entry["adapter_bytes"] or 0)
        row = [
            f"`{system}`",
            cell(describe(system)),
            number(size_bytes / 1e6, 1),
            number(times_smaller(first, system), 1),
        ]
        for results in conditions.values():
            row += _cells(results, system)
        rows.append(row)
    return table(headings, rows, text_columns=2)


def _cells(results: Results, system: str) -> list[str]:
    """WER and reductions of one system in one condition."""
    entry = results["systems"].get(system)
    if entry is None:
        return [NOTHING] * 3
    row = comparison(results, system, _REFERENCE)
    return [percent(entry["wer"]), *([_gain(row), _gain(row["normalized"])] if row else [NOTHING] * 2)]


def _gain(row: Mapping[str, Any]) -> str:
    return f"{percent(row['relative_wer_reduction'], 1)} {percent_interval(row['ci95'], 1)}"
