"""The figures of results: WER by speaker and system, and WER against bytes; and what all figures are drawn with.

Matplotlib is imported here alone.
"""

import contextlib
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pqm_plugin.errors import PqmError
from pqm_plugin.files import whole_file
from pqm_plugin.report.tables import Look, looks, ordered

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


Results = Mapping[str, Any]

_WIDTH, _RIGHT = 8.0, 0.75  # inches, as all lengths here
_ROW, _SPEAKER_ROW, _GAP, _FOOT, _PAD = 0.24, 0.34, 0.42, 0.5, 0.3
_APART_POINTS = 8.0


def speakers_figure(results: Results, path: Path, label: str) -> None:
    """Draw the WER of every system, in total with its interval (which is the key as well) and for each speaker."""
    systems, style = ordered(results["systems"]), looks(results["systems"])
    speakers = _by_difficulty(results, systems)
    heights = [_ROW * len(systems) + 0.1, _SPEAKER_ROW * len(speakers)]
    height = head_inch(label, _WIDTH) + _PAD + heights[0] + _GAP + heights[1] + _FOOT
    left = 0.35 + 0.085 * max(9, *(len(name) for name in [*systems, *speakers]))
    with figure(path, _WIDTH, height) as drawn:
        headline(drawn, "Word error rate by system and by speaker", label, left_inch=0.2)
        width = (_WIDTH - left - _RIGHT) / _WIDTH
        bottoms = [_FOOT + heights[1] + _GAP, _FOOT]
        top, below = (
            drawn.add_axes((left / _WIDTH, bottom / height, width, inches / height))
            for bottom, inches in zip(bottoms, heights, strict=True)
        )
        _draw_totals(top, results, systems, style)
        _draw_speakers(below, results, systems, style, speakers)
        limit = _widest(results, systems)
        for axes in (top, below):
            axes.set_xlim(0, limit)
            axes.grid(axis="x", color=GRID, linewidth=0.8)
            bare(axes)
        top.set_title("all speakers, with 95 % interval", loc="left", fontsize=8.5, color=FAINT, pad=5)
        below.set_title("each speaker, the hardest on top", loc="left", fontsize=8.5, color=FAINT, pad=5)
        below.set_xlabel("WER %")


def _by_difficulty(results: Results, systems: Sequence[str]) -> list[str]:
    """Sort speakers, the easiest first (it is drawn lowest), by the WER of the first system; ties by name."""
    easiest = "full" if "full" in systems else systems[0]
    speakers = results["systems"][easiest]["speakers"]
    return sorted(speakers, key=lambda speaker: (speakers[speaker]["wer"] or 0, speaker))


def _widest(results: Results, systems: Sequence[str]) -> float:
    entries = [results["systems"][system] for system in systems]
    rates = [entry["wer_ci95"][1] for entry in entries]
    rates += [one["wer"] or 0 for entry in entries for one in entry["speakers"].values()]
    return 105 * max(rates) or 1.0


def _draw_totals(axes: Any, results: Results, systems: Sequence[str], style: Mapping[str, Look]) -> None:
    if "full" in systems:
        axes.axvline(100 * results["systems"]["full"]["wer"], color=FAINT, linewidth=0.8, linestyle=(0, (2, 2)))
    for place, system in enumerate(reversed(systems)):
        entry, look = results["systems"][system], style[system]
        low, high = (100 * end for end in entry["wer_ci95"])
        axes.plot([low, high], [place, place], color=look.colour, linewidth=1.6, alpha=0.55, solid_capstyle="butt")
        axes.plot(100 * entry["wer"], place, **marker_style(look))
        axes.annotate(
            f"{100 * entry['wer']:.2f}", (1, place), xycoords=("axes fraction", "data"), xytext=(6, 0),
            textcoords="offset points", va="center", fontsize=8.5, annotation_clip=False,
        )  # fmt: skip
    axes.set_yticks(range(len(systems)), list(reversed(systems)))
    axes.set_ylim(-0.6, len(systems) - 0.4)
    axes.tick_params(labelbottom=False)


def _draw_speakers(
    axes: Any, results: Results, systems: Sequence[str], style: Mapping[str, Look], speakers: Sequence[str]
) -> None:
    lanes = _lanes(systems)
    for place, speaker in enumerate(speakers):
        if place % 2 == 0:
            axes.axhspan(place - 0.5, place + 0.5, color=BAND, linewidth=0, zorder=0)
        for system in systems:
            wer = results["systems"][system]["speakers"][speaker]["wer"]
            if wer is not None:
                axes.plot(100 * wer, place + lanes[system], **marker_style(style[system], size=5.8), clip_on=False)
    axes.set_yticks(range(len(speakers)), list(speakers))
    axes.set_ylim(-0.5, len(speakers) - 0.5)


def _lanes(systems: Sequence[str]) -> dict[str, float]:
    """Give each system its own height within a speaker's row; the stock decoder shares that of `full`."""
    own = [system for system in systems if not (system in ("espnet", "stock") and "full" in systems)]
    step = 0.6 / max(1, len(own) - 1)
    heights = {system: 0.3 - step * place for place, system in enumerate(own)}
    return {system: heights.get(system, heights.get("full", 0.0)) for system in systems}


def bytes_figure(results: Results, path: Path, label: str) -> None:
    """Draw WER and its interval against the bytes of base and adapter."""
    systems, style = ordered(results["systems"]), looks(results["systems"])
    sizes = {system: _size_mb(results["systems"][system]) for system in systems}
    systems = [system for system in systems if sizes[system] > 0]
    if not systems:
        return
    head, height = head_inch(label, _WIDTH), 4.6
    with figure(path, _WIDTH, height) as drawn:
        headline(drawn, "Word error rate against size", label, left_inch=0.2)
        axes = drawn.add_axes((0.7 / _WIDTH, 0.55 / height, (_WIDTH - 0.9) / _WIDTH, (height - head - 0.7) / height))
        axes.set_xscale("log")
        axes.set_xlim(min(sizes[system] for system in systems) / 1.25, max(sizes[system] for system in systems) * 1.9)
        highest = max(results["systems"][system]["wer_ci95"][1] for system in systems)
        axes.set_ylim(0, 108 * highest or 1.0)
        for cluster in _clusters(systems, sizes):
            _draw_cluster(axes, results, cluster, sizes, style)
        plain_log_ticks(axes)
        axes.grid(axis="both", color=GRID, linewidth=0.8)
        bare(axes)
        axes.set_xlabel("base and adapter on disk, MB (logarithmic)")
        axes.set_ylabel("WER %, with 95 % interval")


def _size_mb(entry: Mapping[str, Any]) -> float:
    return float((entry["model_bytes"] or 0) + (entry["adapter_bytes"] or 0)) / 1e6


def _clusters(systems: Sequence[str], sizes: Mapping[str, float]) -> list[list[str]]:
    """Group systems whose sizes are so near (10 %) that their marks would cover one another."""
    clusters: list[list[str]] = []
    for system in sorted(systems, key=lambda name: sizes[name]):
        if clusters and sizes[system] < 1.1 * sizes[clusters[-1][0]]:
            clusters[-1].append(system)
        else:
            clusters.append([system])
    return clusters


def _draw_cluster(
    axes: Any, results: Results, cluster: Sequence[str], sizes: Mapping[str, float], style: Mapping[str, Look]
) -> None:
    wers = {system: 100 * results["systems"][system]["wer"] for system in cluster}
    # Marks of nearly one size stand side by side, some points apart, whatever the scale.
    half_points = _APART_POINTS * (len(cluster) - 1) / 2
    for place, system in enumerate(cluster):
        x, moved = sizes[system], moved_by(axes, _APART_POINTS * place - half_points)
        low, high = (100 * end for end in results["systems"][system]["wer_ci95"])
        axes.plot([x, x], [low, high], color=style[system].colour, linewidth=1.6, alpha=0.55, transform=moved)
        axes.plot(x, wers[system], transform=moved, zorder=3, **marker_style(style[system]))
    by_wer = sorted(cluster, key=lambda system: (-wers[system], cluster.index(system)))
    heights = spread([wers[system] for system in by_wer], axes.get_ylim()[1] * 0.056)
    right, moved = max(sizes[system] for system in cluster), moved_by(axes, half_points + 14)
    for system, height in zip(by_wer, heights, strict=True):
        if len(cluster) > 1:
            axes.plot(right, height, transform=moved, **marker_style(style[system], size=4.5))
        offset = half_points + (21 if len(cluster) > 1 else 9)
        axes.annotate(
            system, (right, height), xytext=(offset, 0), textcoords="offset points", va="center", fontsize=8.5
        )
