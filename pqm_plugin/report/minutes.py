"""Word errors against minutes of adaptation speech, and where they fall below full precision."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from pqm_plugin.report.markdown import percent
from pqm_plugin.report.systems import OWN, SAT
from pqm_plugin.report.tables import Results

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
