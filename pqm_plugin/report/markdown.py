"""Numbers and tables as Markdown."""

from collections.abc import Sequence

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
