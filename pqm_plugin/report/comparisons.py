"""What comparisons show: a table, and sentences that claim no more than it does."""

from collections.abc import Mapping, Sequence
from typing import Any

from pqm_plugin.report.systems import OTHERS, OWN, others_of
from pqm_plugin.report.tables import number, percent, percent_interval, table

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
