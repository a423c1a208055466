"""The HTML of results: words side by side, differences marked by shape and text, not by colour alone."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from pqm_plugin.metrics.wer import Alignment, Step, align
from pqm_plugin.page.desk import Comparison, Heard
from pqm_plugin.personal.enrollment import Enrolled
from pqm_plugin.personal.folder import SAT, SPEAKERS

_WITHOUT = {SAT: "the adapter for anyone (sat)", "none": "the 4-bit base alone"}
_LEGEND = (
    "Words that differ: <del>struck through</del> before, <ins>underlined and bold</ins> after; the list below "
    "names each."
)


def comparison(found: Comparison) -> str:
    """Both transcripts side by side, differences marked and listed, and what each took; one side for anyone."""
    before, said = found.before.transcript.text, notes(found.notes)
    if found.after is None:
        return f'{said}<div class="pqm-sides">{_side("Anyone", found.before, _plain(before))}</div>'
    [steps] = align([before], [found.after.transcript.text])
    sides = _side("Before", found.before, _marked(steps, "before")) + _side(
        "After", found.after, _marked(steps, "after")
    )
    return f'{said}<div class="pqm-sides">{sides}</div>{_changes(steps)}'


def notes(said: Sequence[str]) -> str:
    """What is odd about recordings, a paragraph each."""
    return "".join(f'<p class="pqm-changes" role="status">{escape(each)}</p>' for each in said)


def _side(title: str, heard: Heard, words: str) -> str:
    rows = {
        "Time": f"{heard.seconds:.2f} s for {heard.transcript.duration_s:.1f} s of speech"
        + (", kept from before" if heard.is_kept else ""),
        "Real-time factor": f"{heard.real_time_factor:.3f}",
        "Adapter": megabytes(heard.adapter_bytes) if heard.adapter_bytes else "none",
    }
    return (
        f'<section class="pqm-side" aria-label="{title}"><h3>{title}</h3><p class="pqm-with">with '
        f'{escape(_with(heard))}</p><p class="pqm-words">{words or "<em>no words</em>"}</p>{_facts(rows)}</section>'
    )


def _with(heard: Heard) -> str:
    adapter = heard.transcript.adapter
    return _WITHOUT.get(adapter) or f"the adapter of {adapter.removeprefix(f'{SPEAKERS}/')}"


def _plain(text: str) -> str:
    return escape(text)


def _marked(steps: Alignment, side: str) -> str:
    """The words of one side; runs of those that differ are one mark."""
    tag = "del" if side == "before" else "ins"
    parts: list[tuple[bool, str]] = []
    for step in steps:
        word = step.reference if side == "before" else step.hypothesis
        if word:
            parts.append((step.kind != "C", escape(word)))
    shown = []
    for differs, words in _runs(parts):
        shown.append(f"<{tag}>{words}</{tag}>" if differs else words)
    return " ".join(shown)


def _runs(parts: Iterable[tuple[bool, str]]) -> list[tuple[bool, str]]:
    runs: list[tuple[bool, str]] = []
    for differs, word in parts:
        if runs and runs[-1][0] == differs:
            runs[-1] = (differs, f"{runs[-1][1]} {word}")
        else:
            runs.append((differs, word))
    return runs


def _changes(steps: Alignment) -> str:
    """The differences in words, for those who see no marks, and how many there are."""
    told = [_told(step) for step in steps if step.kind != "C"]
    if not told:
        return '<p class="pqm-changes" role="status">The same words before and after.</p>'
    count = f"{len(told)} of {len(steps)} words differ" if len(told) > 1 else f"1 of {len(steps)} words differs"
    items = "".join(f"<li>{one}</li>" for one in told)
    return (
        f'<div class="pqm-changes"><p role="status"><strong>{count}.</strong> {_LEGEND}</p>'
        f"<details><summary>Word by word</summary><ol>{items}</ol></details></div>"
    )


def _told(step: Step) -> str:
    before, after = escape(step.reference), escape(step.hypothesis)
    if step.kind == "D":
        return f"only before: <del>{before}</del>"
    if step.kind == "I":
        return f"only after: <ins>{after}</ins>"
    return f"<del>{before}</del> became <ins>{after}</ins>"


def readings(kept: Sequence[tuple[str, float]]) -> str:
    """What was read so far: each sentence with its seconds, and the sum."""
    if not kept:
        return '<p class="pqm-kept">Nothing is kept yet. A minute of speech is a good beginning, ten are better.</p>'
    items = "".join(f"<li>{escape(text)} <small>({seconds:.1f} s)</small></li>" for text, seconds in kept)
    total = sum(seconds for _, seconds in kept)
    return f'<div class="pqm-kept"><p role="status">{_counted(len(kept))}, {total:.0f} s.</p><ol>{items}</ol></div>'


def enrolled(done: Enrolled, facts: Mapping[str, Any]) -> str:
    """What an enrolment gave.

    Args:
        facts: of the adapter, see `personal.facts.adapter_facts`.
    """
    how = "was learned from" if done.is_new else "is there already, from the same"
    return (
        f'<p class="pqm-done" role="status"><strong>{escape(done.speaker)}</strong> {how} {_counted(done.n_clips)}, '
        f"{done.duration_s:.0f} s: an adapter of {megabytes(facts['size_bytes'])} "
        f"with {facts['parameters']:,} parameters. Choose this speaker under “Hear”.</p>"
    )


def model(found: Mapping[str, Any]) -> str:
    """Sizes of a model and of its adapters.

    Args:
        found: see `personal.facts.facts`.
    """
    rows = {"Family": str(found["family"]), "Parameters": f"{found['parameters']:,}"}
    rows["Packed base"] = megabytes(found["size_bytes"])
    if found["base_size_bytes"]:
        times = found["base_size_bytes"] / found["size_bytes"]
        rows["The same in full precision"] = f"{megabytes(found['base_size_bytes'])}, {times:.2f} times as much"
    if found["bits_per_parameter"]:
        rows["Bits a parameter"] = f"{found['bits_per_parameter']:.2f}"
    rows["Licence of the base"] = str(found["licence"])
    return f'<div class="pqm-model">{_facts(rows)}{_adapters(found)}</div>'


def _adapters(found: Mapping[str, Any]) -> str:
    if not found["adapters"]:
        return "<p>No adapters yet.</p>"
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Adapter", "Size", "Share of the base", "Learned from"))
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{megabytes(row["size_bytes"])}</td>'
        f"<td>{row['size_bytes'] / found['size_bytes']:.1%}</td><td>{escape(row['learned_from'])}</td></tr>"
        for name, row in found["adapters"].items()
    )
    return f"<table><caption>Adapters</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _facts(rows: Mapping[str, str]) -> str:
    items = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in rows.items())
    return f'<dl class="pqm-facts">{items}</dl>'


def _counted(n_recordings: int) -> str:
    return f"{n_recordings} recording{'' if n_recordings == 1 else 's'}"


def megabytes(size_bytes: int) -> str:
    """A size in megabytes of 10^6 bytes."""
    return f"{size_bytes / 1e6:.2f} MB"
