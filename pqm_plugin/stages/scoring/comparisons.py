"""Which systems are compared, and what a gain over 4 bits is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pqm_plugin.metrics.bootstrap import Comparison, Resampled
from pqm_plugin.metrics.speakers import count_speakers
from pqm_plugin.metrics.wer import ErrorCounts
from pqm_plugin.report.systems import BASE, OTHERS, OWN, others_of

_REFERENCES = ("full", "nf4")
_PAIRS = (
    ("nf4+sat", "full+sat"),
    ("nf4+speaker", "nf4+sat"),
    ("nf4+speaker", "nf4+other"),
    ("nf4+speaker", "full+sat"),
    ("nf4+speaker", "full+speaker"),
    ("nf4+speaker-unsup", "nf4+sat"),
    ("nf4+speaker-unsup", "nf4+speaker"),
    ("full+speaker", "full+sat"),
    ("full+copy", "full+sat"),
    ("nf4+speaker", "full+copy"),
    ("nf4+speaker", "full+espnet-lora"),
)


@dataclass(frozen=True)
class Errors:
    """The errors of every system in each utterance, and resampled."""

    counted: Mapping[str, Sequence[ErrorCounts]]
    resampled: Resampled


def comparisons(raw: Errors, normalized: Errors, speakers: Sequence[str]) -> list[dict[str, Any]]:
    """Each pair by WER as it is, and by normalised WER, in which a format that was learned counts for nothing.

    The last row is the speaker's own adapter against the mean of all others' where there are several.
    """
    systems, others = list(raw.counted), others_of(raw.counted)
    pairs = [(system, against) for against in _REFERENCES for system in systems if system != against]
    groups: list[tuple[str, str, tuple[str, ...]]] = [
        (system, against, (against,)) for system, against in [*pairs, *_PAIRS]
    ]
    if len(others) > 1:
        groups.append((OWN, OTHERS, others))
    return [
        {
            "system": system,
            "against": against,
            **({"mean_of": list(group)} if len(group) > 1 else {}),
            **_compared(raw, system, group, speakers),
            "normalized": _compared(normalized, system, group, speakers),
        }
        for system, against, group in groups
        if {system, *group} <= raw.counted.keys()
    ]


def _compared(errors: Errors, system: str, group: Sequence[str], speakers: Sequence[str]) -> dict[str, Any]:
    found = _entry(errors.resampled.compare(system, group))
    return {**found, "speakers": _speakers(errors.counted, system, group, speakers)}


def gain_split(raw: Errors, normalized: Errors) -> list[dict[str, Any]]:
    """What the speaker's own adapter gains over `nf4`, in shares of the errors of `nf4`; empty without a control.

    `anyone`: what the mean of all others' adapters gains too, domain, text format and the repair of 4 bits; `own`:
    what only one's own does; `whole`: their sum.
    """
    others = others_of(raw.counted)
    if not others or not {BASE, OWN} <= raw.counted.keys():
        return []
    steps = {"anyone": ((BASE,), others), "own": (others, (OWN,)), "whole": ((BASE,), (OWN,))}
    return [
        {
            "part": part,
            **_entry(raw.resampled.gain(before, after, (BASE,)), "of_errors"),
            "normalized": _entry(normalized.resampled.gain(before, after, (BASE,)), "of_errors"),
        }
        for part, (before, after) in steps.items()
    ]


def _entry(found: Comparison, name: str = "relative_wer_reduction") -> dict[str, Any]:
    return {name: found.relative_wer_reduction, "ci95": list(found.ci95), "p_improvement": found.p_improvement}


def _speakers(
    counted: Mapping[str, Sequence[ErrorCounts]], system: str, group: Sequence[str], speakers: Sequence[str]
) -> dict[str, Any]:
    """Speakers helped and harmed; against the mean of several, both sides count as often as there are of these."""
    ours = [one.errors * len(group) for one in counted[system]]
    theirs = [sum(one.errors for one in row) for row in zip(*(counted[other] for other in group), strict=True)]
    return asdict(count_speakers(ours, theirs, speakers))
