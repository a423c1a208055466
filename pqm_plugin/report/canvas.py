"""An empty figure and how it is saved: the one file that imports matplotlib."""

import contextlib
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pqm_plugin.errors import PqmError
from pqm_plugin.files import whole_file
from pqm_plugin.report.systems import Look

INK, FAINT, GRID, BAND = "#24292F", "#6E7781", "#E4E8EC", "#F6F8FA"

_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so every machine draws the same
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
    # Letters as outlines and fixed ids: the same bytes wherever and whenever the figure is drawn.
    "svg.fonttype": "path",
    "svg.hashsalt": "pqm",
}


@contextlib.contextmanager
def figure(path: Path, width_inch: float, height_inch: float) -> Iterator[Any]:
    """Yield a matplotlib figure and save it to `path` as SVG; white paper, so that it reads on a dark page too.

    Raises:
        PqmError: if matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PqmError("figures need matplotlib: pip install 'pqm_plugin[report]'") from error
    # Not what a user's matplotlibrc says, nor what a notebook has set.
    defaults = {key: value for key, value in matplotlib.rcParamsDefault.items() if key != "backend"}
    settings: Any = defaults | _STYLE
    with matplotlib.rc_context(settings):
        drawn = Figure(figsize=(width_inch, height_inch), facecolor="white")
        yield drawn
        with whole_file(path) as scratch:
            drawn.savefig(scratch, format="svg", metadata={"Date": None, "Creator": None})


def headline(drawn: Any, title: str, label: str, left_inch: float) -> None:
    """Write the title, and under it, smaller, what must be said beside every number."""
    width_inch, height_inch = drawn.get_size_inches()
    left = left_inch / width_inch
    drawn.text(left, 1 - 0.16 / height_inch, title, va="top", fontsize=11.5, fontweight="bold")
    drawn.text(left, 1 - 0.42 / height_inch, wrap(label, width_inch), va="top", fontsize=8, color=FAINT)


def wrap(label: str, width_inch: float) -> str:
    """Break a label into lines that fit under a title."""
    return textwrap.fill(label, int(14 * width_inch))


def head_inch(label: str, width_inch: float) -> float:
    """Height that a title and its label take."""
    return 0.55 + 0.15 * len(wrap(label, width_inch).splitlines())


def marker_style(look: Look, size: float = 6.0) -> dict[str, Any]:
    """Keyword arguments of matplotlib that draw a look; an open marker is larger, to ring a filled one beneath it."""
    lighter = look.marker in "^vXP*"  # these cover less paper at the same size
    return {
        "marker": look.marker,
        "linestyle": "none",
        "markersize": size * (1.6 if not look.filled else 1.3 if lighter else 1.0),
        "markerfacecolor": look.colour if look.filled else "none",
        "markeredgecolor": "white" if look.filled else look.colour,
        "markeredgewidth": 0.5 if look.filled else 1.2,
    }


def bare(axes: Any) -> None:
    """Leave nothing but a faint upright grid."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    axes.set_axisbelow(True)


def plain_log_ticks(axes: Any) -> None:
    """Label a logarithmic x axis with plain numbers, some of them between the powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="both", length=0)


def moved_by(axes: Any, points: float) -> Any:
    """Data coordinates of `axes`, moved to the right by `points` of 1/72 inch."""
    from matplotlib.transforms import ScaledTranslation

    return axes.transData + ScaledTranslation(points / 72, 0, axes.figure.dpi_scale_trans)


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Move labels, sorted from the top down, apart until no two are nearer than `gap`, around their middle."""
    placed: list[float] = []
    for height in heights:
        placed.append(min(height, placed[-1] - gap) if placed else height)
    shift = sum(heights) / len(heights) - sum(placed) / len(placed)
    return [height + shift for height in placed]
