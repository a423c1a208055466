"""The figure of growth: five panels, of which length and beam have the straight line that fits their points best."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pqm_plugin.report.figures import FAINT, GRID, INK, bare, figure, headline

HELD, PAGED = "#0969DA", "#BC4C00"
_SIZE_INCH = (11.2, 6.4)


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Write the figure as SVG."""
    growth = results["growth"]
    with figure(path, *_SIZE_INCH) as drawn:
        headline(drawn, "Cost as speakers, length and beam grow", results["meta"]["hardware"], 0.6)
        panels = drawn.subplots(2, 3)
        drawn.subplots_adjust(left=0.07, right=0.97, bottom=0.08, top=0.84, wspace=0.26, hspace=0.46)
        _adapters(panels[0][0], growth["adapters"], "memory of factors, MB", lambda one: one["held_bytes"] / 1e6)
        panels[0][0].set_yscale("log")  # against a logarithmic axis, what grows in proportion is straight
        _adapters(panels[0][1], growth["adapters"], "switch, ms (95th percentile)", lambda one: one["switch_ms"]["p95"])
        panels[0][1].axhline(5, color=FAINT, linewidth=0.8, linestyle=":")
        panels[0][1].set_ylim(bottom=0)
        _points(panels[0][2], growth["batch"], "distinct adapters among eight rows", "a batch, s")
        _line(panels[1][0], growth["length"]["by_seconds"], "length of the utterance, s")
        _line(panels[1][1], growth["beam"]["by_beam"], "beam")
        panels[1][2].set_axis_off()


def _adapters(axes: Any, adapters: Mapping[str, Any], title: str, of: Any) -> None:
    for way, colour, label in (
        ("held", HELD, "all in memory"),
        ("paged", PAGED, f"within {adapters['memory_mib']} MiB"),
    ):
        x = [int(n) for n in adapters[way]]
        axes.plot(x, [of(one) for one in adapters[way].values()], "o-", color=colour, label=label, markersize=4)
    axes.set_xscale("log")
    axes.set_xlabel("adapters")
    axes.set_title(title, fontsize=9, loc="left")
    axes.legend(frameon=False, fontsize=8)
    _plain(axes)


def _line(axes: Any, points: Mapping[str, Any], label: str) -> None:
    x, y = _points(axes, points, label, "decoding, s, and the best straight line")
    slope, start = np.polyfit(x, y, 1, w=1 / y)
    axes.plot(x, slope * x + start, color=FAINT, linewidth=0.8)


def _points(axes: Any, points: Mapping[str, Any], label: str, title: str) -> tuple[np.ndarray, np.ndarray]:
    """Medians with their spreads; gives their places."""
    x = np.array([float(name) for name in points])
    times = [one["s"] for one in points.values()]
    y = np.array([one["median"] for one in times])
    around = [[one["median"] - one["low"] for one in times], [one["high"] - one["median"] for one in times]]
    axes.errorbar(x, y, yerr=around, fmt="o", color=INK, markersize=4, linewidth=0.8)
    axes.set_xlabel(label)
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_ylim(bottom=0)
    _plain(axes)
    return x, y


def _plain(axes: Any) -> None:
    bare(axes)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
