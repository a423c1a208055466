"""What a gain over 4 bits is made of: any speaker's adapter, one's own, and what is left without transcripts."""

from collections.abc import Mapping
from statistics import mean
from typing import Any

from pqm_plugin.report.comparisons import comparison, whole_sentence
from pqm_plugin.report.markdown import NOTHING, number, percent, percent_interval, table
from pqm_plugin.report.systems import BASE, OTHERS, OWN, SAT, others_of
from pqm_plugin.report.tables import Results

UNSUPERVISED = "nf4+speaker-unsup"
_STARTS = {BASE: "4 bits without adapter", SAT: "the speaker-independent adapter"}
_PARTS = {
    "anyone": "any speaker's LoRA: domain, text format, repair of 4 bits",
    "own": "only one's own LoRA",
    "whole": "both",
}
_NOTE = "Domain, text format and the repair of 4 bits any speaker's adapter gains; the last step is one's own."


def gain_parts(results: Results, label: str) -> list[str]:
    """The part of the page, empty where no control was decoded; `label` stands beside every table."""
    steps = gain_table(results)
    if not steps:
        return []
    parts = ["### What the gain is made of\n", label, steps]
    if split := split_table(results):
        parts += [label, split]
    said = filter(None, [_NOTE, own_sentence(results), unsupervised_sentence(results)])
    return [*parts, " ".join(said) + "\n"]


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
