"""What must be said beside every number."""

from collections.abc import Iterable, Sequence


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
