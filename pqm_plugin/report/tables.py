"""The tables of a report, each a function of stored results alone, and the names, order and looks of systems."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_BASES = {
    "espnet": "the base as stock ESPnet decodes it",
    "stock": "the base as its own toolkit decodes it",
    "full": "the base in full precision",
    "int8": "the base in dynamic int8",
    "nf4-rtn": "the base in 4 bits, each weight rounded to its nearest level",
    "nf4": "the base in 4 bits",
}
_ADAPTERS = {
    "sat": "the speaker-independent LoRA",
    "speaker": "the speaker's own LoRA",
    "other": "another target speaker's LoRA (control)",
    "speaker-unsup": "the speaker's own LoRA, learned without transcripts",
    "copy": "every weight fine-tuned for the speaker, from the speaker-independent LoRA on: a whole model for each",
    "espnet-lora": "ESPnet's own LoRA for the speaker, from the base itself on, all else frozen",
}
_ORDER = (
    *("espnet", "stock", "full", "full+sat", "full+speaker", "full+copy", "full+espnet-lora"),
    *("int8", "nf4-rtn", "nf4", "nf4+sat", "nf4+speaker", "nf4+other"),
)


BASE, OWN, SAT = "nf4", "nf4+speaker", "nf4+sat"
OTHERS = "nf4+others"
"""What the mean of `nf4+other`, `nf4+other2`, … is called in comparisons, where there are several."""
_OTHER = re.compile(r"nf4\+other\d*")


@dataclass(frozen=True)
class Look:
    """How a system is drawn: colour, matplotlib marker, and whether the marker is filled."""

    colour: str
    marker: str
    filled: bool = True


# Colours of Okabe and Ito (2008), told apart with any colour vision; the markers tell them apart in grey.
_LOOKS = {
    "espnet": Look("#7F7F7F", "o", filled=False),
    "stock": Look("#7F7F7F", "o", filled=False),
    "full": Look("#222222", "o"),
    "full+copy": Look("#222222", "P"),
    "full+espnet-lora": Look("#7F7F7F", "X", filled=False),
    "int8": Look("#CC79A7", "v"),
    "nf4-rtn": Look("#D55E00", "s", filled=False),
    "nf4": Look("#D55E00", "s"),
    "nf4+sat": Look("#E69F00", "^"),
    "nf4+speaker": Look("#0072B2", "D"),
    "nf4+other": Look("#009E73", "X"),
}
_FURTHER_LOOKS = (
    Look("#56B4E9", "P"),
    Look("#222222", "p", filled=False),
    Look("#0072B2", "h", filled=False),
    Look("#D55E00", "*", filled=False),
)


def ordered(systems: Iterable[str]) -> list[str]:
    """Sort systems as every table shows them: the fixed ones first, then the others by name."""
    return sorted(systems, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))


def others_of(systems: Iterable[str]) -> tuple[str, ...]:
    """Those of the systems that are `nf4` with another speaker's adapter."""
    return tuple(system for system in systems if _OTHER.fullmatch(system))


def describe(system: str) -> str:
    """Say what a system is; a key is a base, or a base, `+` and an adapter."""
    base, _, adapter = system.partition("+")
    said = _BASES.get(base, base)
    if not adapter:
        return said
    kind = adapter.rstrip("0123456789")
    return f"{said}, with {_ADAPTERS.get(kind, adapter)}" + _numbered(kind, adapter[len(kind) :])


def _numbered(kind: str, number: str) -> str:
    """What the number after an adapter means."""
    if not number:
        return ""
    return f", {number} rounds" if kind == "speaker-unsup" else f", {number} places on in the list"


def looks(systems: Iterable[str]) -> dict[str, Look]:
    """Choose how each system is drawn; known systems look alike in every figure."""
    everyone = ordered(systems)
    further = [name for name in everyone if name not in _LOOKS]
    chosen = {name: _FURTHER_LOOKS[place % len(_FURTHER_LOOKS)] for place, name in enumerate(further)}
    return {name: _LOOKS.get(name) or chosen[name] for name in everyone}


def label_line(labels: Sequence[str]) -> str:
    """Join the labels into the line that stands beside a table."""
    return f"*{plain_label(labels)}*\n" if labels else ""


def plain_label(labels: Sequence[str]) -> str:
    """Join the labels into sentences, each with its capital and its full stop."""
    stripped = [label.strip().rstrip(".") for label in labels]
    return " ".join(f"{label[:1].upper()}{label[1:]}." for label in stripped)


def together(several: Iterable[Sequence[str]]) -> list[str]:
    """Labels of a table over several results files: those of each, once."""
    return list(dict.fromkeys(label for labels in several for label in labels))


NOTHING = "–"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """Write a table; the first `text_columns` columns are set left, the others right."""
    marks = [":--" if place < text_columns else "--:" for place in range(len(headings))]
    lines = [" | ".join(cells).replace("\n", " ") for cells in [headings, marks, *rows]]
    return "".join(f"| {line} |\n" for line in lines)


def cell(text: str) -> str:
    """Keep a bar in `text` from ending its cell."""
    return text.replace("|", "\\|")


def percent(fraction: float | None, digits: int = 2) -> str:
    """Write a fraction as a percentage without its sign, which stands in the heading."""
    return NOTHING if fraction is None else f"{100 * fraction:.{digits}f}"


def percent_interval(ends: Sequence[float | None], digits: int = 2) -> str:
    """Write an interval of fractions in percent; an end that is None is unbounded."""
    low, high = ends
    if low is None and high is None:
        return NOTHING
    return (
        f"[{percent(low, digits) if low is not None else '−∞'}, {percent(high, digits) if high is not None else '∞'}]"
    )


def megabytes(size_bytes: float | None) -> str:
    """Write bytes in MB of 1,000,000."""
    if size_bytes is None:
        return NOTHING
    return "0" if not size_bytes else f"{size_bytes / 1e6:.2f}"


def number(value: float | None, digits: int) -> str:
    """Write a number with a fixed number of digits after the point."""
    return NOTHING if value is None else f"{value:.{digits}f}"


Results = Mapping[str, Any]
Column = tuple[str, Callable[[Any], str]]

_FULL_PRECISION = ("full", "espnet", "stock")


def _count(value: Any) -> str:
    return f"{value:,}"


def _one_in_percent(value: Any) -> str:
    return percent(value)


def _scientific(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# Columns of measurements that other parts hand over as rows; the order here is the order in the table.
_COLUMNS: dict[str, Column] = {
    "kind": ("kind of layer", lambda value: cell(str(value))),
    "setting": ("setting", lambda value: cell(str(value))),
    "layers": ("layers", _count),
    "parameters": ("parameters", _count),
    "size_bytes": ("MB", megabytes),
    "bytes_share": ("% of bytes", _one_in_percent),
    "relative_error": ("relative error %", _one_in_percent),
    "dev_loss": ("dev loss", lambda value: number(value, 4)),
    "dev_loss_increase": ("dev loss increase", lambda value: f"{value:+.4f}"),
    "dev_wer": ("dev WER %", _one_in_percent),
    "dev_wer_increase": ("dev WER increase, points", lambda value: f"{100 * value:+.2f}"),
}


def float32_bytes(results: Results) -> int | None:
    """Bytes of the full-precision base, against which the others are small; None if it was not decoded."""
    systems = results["systems"]
    return next((systems[name]["model_bytes"] for name in _FULL_PRECISION if name in systems), None)


def times_smaller(results: Results, system: str) -> float | None:
    """Bytes of the full-precision base over bytes of a system, its adapter included."""
    entry, base = results["systems"][system], float32_bytes(results)
    size_bytes = (entry["model_bytes"] or 0) + (entry["adapter_bytes"] or 0)
    return base / size_bytes if base and size_bytes else None


def systems_table(results: Results) -> str:
    """Error rates, size and speed of every system."""
    headings = ["system", "what it is", "WER %", "95 % interval", "WER normalised %", "CER %", "base MB", "adapter MB"]
    headings += ["adapter % of parameters", "times smaller", "RTF", "peak memory MB"]
    rows = []
    for system in ordered(results["systems"]):
        entry = results["systems"][system]
        rows.append(
            [
                f"`{system}`",
                cell(describe(system)),
                percent(entry["wer"]),
                percent_interval(entry["wer_ci95"]),
                percent(entry["wer_normalized"]),
                percent(entry["cer"]),
                megabytes(entry["model_bytes"]),
                megabytes(entry["adapter_bytes"]) if entry["adapter_bytes"] else NOTHING,
                percent(entry["adapter_fraction"]) if entry["adapter_fraction"] else NOTHING,
                number(times_smaller(results, system), 2),
                number(entry["rtf"], 3),
                f"{entry['peak_rss_bytes'] / 1e6:.0f}" if entry["peak_rss_bytes"] else NOTHING,
            ]
        )
    return table(headings, rows, text_columns=2)


def trained_sentence(results: Results) -> str:
    """Say how much a toolkit trains by default where its own LoRA is among the systems; "" if it is not."""
    said = []
    for system in ordered(results["systems"]):
        if counts := results["systems"][system].get("trainable"):
            default, frozen, base = (counts[key] for key in ("by_default", "frozen", "base"))
            said.append(
                f"`{system}`: as its toolkit makes it, {default:,} parameters learn ({percent(default / base)} % of "
                f"the base's {base:,}); here the base is frozen, and {frozen:,} learn ({percent(frozen / base)} %)."
            )
    return " ".join(said)


def speakers_table(results: Results) -> str:
    """WER of each speaker under each system."""
    systems = ordered(results["systems"])
    first = results["systems"][systems[0]]
    rows = [
        [cell(speaker), *(str(first["speakers"][speaker][key]) for key in ("utterances", "words"))]
        + [percent(results["systems"][system]["speakers"][speaker]["wer"]) for system in systems]
        for speaker in sorted(first["speakers"])
    ]
    everybody = ["all", str(first["utterances"]), str(first["words"])]
    everybody += [percent(results["systems"][system]["wer"]) for system in systems]
    bold = [f"**{value}**" for value in everybody]
    return table(["speaker", "utterances", "words", *(f"`{system}`" for system in systems)], [*rows, bold])


def overlap_sentence(speakers: Mapping[str, Mapping[str, Any]]) -> str:
    """Say how much of the test the speakers' own train, and SAT, know already; `speakers` as in `overlap.json`."""
    summed = {
        key: sum(entry[key] or 0 for entry in speakers.values())
        for key in ("utterances", "words", "same_text", "same_text_words", "same_text_sat", "same_source")
    }
    said = (
        f"Overlap: of {summed['utterances']:,} test utterances {summed['same_text']:,} "
        f"({percent(summed['same_text_words'] / max(1, summed['words']), 1)} % of the words) have a text that the same "
        f"speaker's train holds too, and {summed['same_text_sat']:,} one that SAT heard"
    )
    if all(entry["same_source"] is None for entry in speakers.values()):
        return f"{said}; the corpus does not tell books, talks or sessions."
    return f"{said}; {summed['same_source']:,} are from a book, talk or session that is in the same speaker's train."


def measurements_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Show rows of measurements, such as the cost of each kind of layer; columns that no row has are left out."""
    keys = [key for key in _COLUMNS if any(key in row for row in rows)]
    keys += sorted({key for row in rows for key in row} - _COLUMNS.keys())
    columns = {key: _COLUMNS.get(key, (key.replace("_", " "), _scientific)) for key in keys}
    body = [
        [NOTHING if row.get(key) is None else write(row[key]) for key, (_, write) in columns.items()] for row in rows
    ]
    n_text = sum(key in ("kind", "setting") for key in keys)
    return table([heading for heading, _ in columns.values()], body, text_columns=max(1, n_text))
