"""The report page: every table with what must be said beside it, where the numbers come from, and what they show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pqm_plugin.report.gains import COMPARISONS_NOTE, Goal, comparisons_table, goals_parts, headlines
from pqm_plugin.report.mismatch import mismatch_parts
from pqm_plugin.report.study import Study, sensitivity_parts, study_parts
from pqm_plugin.report.tables import (
    Results,
    label_line,
    measurements_table,
    ordered,
    overlap_sentence,
    percent,
    percent_interval,
    speakers_table,
    systems_table,
    together,
    trained_sentence,
)

_PROVENANCE = {
    "corpus": "corpus",
    "base": "base",
    "base_sha256": "SHA-256 of the base",
    "command": "command",
    "commit": "commit",
    "seed": "seed",
    "hardware": "hardware",
    "date": "date",
    "versions": "versions",
    "text_case": "letter case of references and training texts",
    "language": "language of the speech",
}
_CODE = ("base_sha256", "command", "commit")
_SYSTEMS_NOTE = (
    "WER and CER in percent of the reference words and characters. Normalised: reference and transcript both through "
    "Whisper's English text normaliser first. MB are 1,000,000 bytes, measured on disk. Times smaller: the "
    "full-precision base over base and adapter together. RTF: seconds of decoding for a second of speech."
)


@dataclass(frozen=True)
class Section:
    """One results file: its heading, its path as the page links it, what it holds, and the paths of its figures.

    `labels` are sentences that stand beside every table and figure, such as "lossy dev-clean, ten readers". `study` and
    `study_figures` are those of the study over the same condition, empty where there is none; `study_of` is the commit
    whose settings it is of, where these are not the recipe's.
    """

    heading: str
    source: str
    results: Results
    speakers_figure: str
    bytes_figure: str
    labels: Sequence[str] = ()
    study: Study = field(default_factory=dict)
    study_figures: Mapping[str, str] = field(default_factory=dict)
    study_of: str = ""


def render_report(
    title: str,
    sections: Sequence[Section],
    notes: Sequence[str] = (),
    sensitivity: Mapping[str, Mapping[str, Any]] | None = None,
    goals: Sequence[Goal] = (),
    mismatch: Mapping[str, Sequence[Section]] | None = None,
) -> str:
    """Put the page together from stored results alone: the same input gives the same text.

    Args:
        notes: sentences for the end of the page.
        sensitivity: by base, how it was measured, and in `rows`, one a kind of layer or setting, what quantising it
            did to loss and WER.
        mismatch: sections of one base under several conditions, by the link of the figure that compares them.
    """
    parts = [f"# {title}\n", "This page is written by stage 8 (report) from the files it names; do not edit it.\n"]
    parts += [_provenance(sections), _method(sections)]
    named = {section.source.rpartition("/")[2]: section for section in sections}
    asked = [named[name] for name in dict.fromkeys(name for goal in goals for name in goal.of) if name in named]
    parts += goals_parts(goals, {name: section.results for name, section in named.items()}, _label(asked))
    for section in sections:
        parts += _section(section)
    for figure, group in (mismatch or {}).items():
        parts += mismatch_parts({section.heading: section.results for section in group}, figure, _label(group))
    if sensitivity:
        costs = {base: record["rows"] for base, record in sensitivity.items()}
        parts += sensitivity_parts(sensitivity, _by_base(costs, sections))
    # Every condition of one base has the same rows.
    quantization = {section.results["meta"]["base"]: section.results.get("quantization") for section in sections}
    if any(quantization.values()):
        parts += ["## Error of the 4-bit weights by kind of layer\n", *_by_base(quantization, sections)]
        parts.append("Relative error: norm of the difference over norm of the weights.\n")
    if notes:
        parts += ["## Notes\n", _bullets(notes)]
    return "\n".join(part for part in parts if part)


def _label(sections: Sequence[Section]) -> str:
    """What must stand beside a table over several sections."""
    return label_line(together(section.labels for section in sections))


def _by_base(tables: Mapping[str, Sequence[Mapping[str, Any]] | None], sections: Sequence[Section]) -> list[str]:
    """A table for each base, under its name where there are several."""
    parts = []
    for base, rows in tables.items():
        if rows:
            label = _label([one for one in sections if one.results["meta"]["base"] == base] or sections)
            parts += [f"### {base}\n" if len(tables) > 1 else "", label, measurements_table(rows)]
    return parts


def _provenance(sections: Sequence[Section]) -> str:
    lines = []
    for key, name in _PROVENANCE.items():
        values = {section.source: section.results["meta"].get(key) for section in sections}
        said = {source: _value(key, value) for source, value in values.items() if value is not None}
        if len(set(said.values())) == 1 and len(said) == len(sections):
            lines.append(f"{name}: {next(iter(said.values()))}")
        else:
            lines += [f"{name} of `{source}`: {value}" for source, value in said.items()]
    return "## Where the numbers come from\n\n" + _bullets(lines)


def _value(key: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {version}" for name, version in sorted(value.items()))
    if isinstance(value, list):
        value = " ".join(str(item) for item in value)
    return f"`{value}`" if key in _CODE else str(value)


def _method(sections: Sequence[Section]) -> str:
    said = (
        "Intervals are 95 %, from a paired bootstrap over speakers and, within each drawn speaker, utterances; every "
    )
    said += "system is scored on the same resamples."
    numbers = sorted({len(_first(section)["speakers"]) for section in sections})
    if numbers[0] == 1:
        said += " With one speaker they tell how far other utterances of this speaker may differ, not other speakers."
    elif numbers[0] < 20:
        n_speakers = " or ".join(map(str, numbers))
        said += f" They rest on {n_speakers} speakers, which is few: intervals of so few tend to be too narrow."
    return said + "\n"


def _first(section: Section) -> Mapping[str, Any]:
    systems: Mapping[str, Any] = section.results["systems"]
    return dict(systems[ordered(systems)[0]])


def _section(section: Section) -> list[str]:
    results, label = section.results, label_line(section.labels)
    first = _first(section)
    size = f"{len(first['speakers'])} speakers, {first['utterances']} utterances, {first['words']:,} words"
    parts = [f"## {section.heading}\n", f"From [`{section.source}`]({section.source}): {size}.\n"]
    parts += ["### Systems\n", label, systems_table(results), _note(_SYSTEMS_NOTE, results)]
    parts += [f"{said}\n" for said in [trained_sentence(results)] if said] + [_overlap(results)]
    parts += [f"![{_bytes_alt(results)}]({section.bytes_figure})\n"]
    if results["comparisons"]:
        parts += ["### Comparisons\n", label, _bullets(headlines(results)), comparisons_table(results)]
        parts += [_note(COMPARISONS_NOTE, results)]
    parts += ["### Speakers\n", label, "WER in percent.\n", speakers_table(results)]
    parts += [f"![{_speakers_alt(results)}]({section.speakers_figure})\n"]
    return parts + study_parts(results, section.study, label, section.study_figures, section.study_of)


def _overlap(results: Results) -> str:
    """Say what the test of the decoded speakers shares with their train; nothing where stage 1 did not tell."""
    told = results["meta"].get("overlap", {})
    decoded = [speaker for speaker in told if speaker in results["systems"][ordered(results["systems"])[0]]["speakers"]]
    return overlap_sentence({speaker: told[speaker] for speaker in decoded}) + "\n" if decoded else ""


def _bytes_alt(results: Results) -> str:
    sizes = []
    for system in ordered(results["systems"]):
        entry = results["systems"][system]
        size_bytes = (entry["model_bytes"] or 0) + (entry["adapter_bytes"] or 0)
        sizes.append(f"{system} {percent(entry['wer'])} % at {size_bytes / 1e6:.2f} MB")
    return (
        "Word error rate with 95 % interval against the size of base and adapter on a logarithmic axis; marks of "
        f"nearly one size are moved apart: {', '.join(sizes)}"
    )


def _speakers_alt(results: Results) -> str:
    rates = []
    for system in ordered(results["systems"]):
        entry = results["systems"][system]
        interval = percent_interval(entry["wer_ci95"]).strip("[]").replace(", ", " to ")
        rates.append(f"{system} {percent(entry['wer'])} % ({interval})")
    return f"Word error rate of each system, in total with 95 % interval and for each speaker: {', '.join(rates)}"


def _bullets(lines: Sequence[str]) -> str:
    return "".join(f"* {line}\n" for line in lines)


def _note(text: str, results: Mapping[str, Any]) -> str:
    """A note with the normaliser that the results name; where they name none, it was the English one."""
    named = results["meta"].get("normalizer", "English")
    return text.replace("Whisper's English text normaliser", f"Whisper's {named} text normaliser") + "\n"
