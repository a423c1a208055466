"""The two figures of a study: WER against minutes of speech, and against bytes over all settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pqm_plugin.report.canvas import (
    FAINT,
    GRID,
    bare,
    figure,
    head_inch,
    headline,
    marker_style,
    plain_log_ticks,
    spread,
)
from pqm_plugin.report.minutes import minutes_points
from pqm_plugin.report.study import Study, settings_points
from pqm_plugin.report.systems import looks
from pqm_plugin.report.tables import Results

_WIDTH, _HEIGHT = 8.0, 3.8  # inches
_LEVELS = ("full", "full+sat", "nf4")


def minutes_figure(results: Results, study: Study, path: Path, label: str) -> None:
    """Draw the WER of the speaker's adapter, with its interval, against minutes of adaptation speech."""
    points = minutes_points(study, results)
    look = looks(["nf4+speaker"])["nf4+speaker"]
    head = head_inch(label, _WIDTH)
    with figure(path, _WIDTH, _HEIGHT) as drawn:
        headline(drawn, "Word error rate against minutes of adaptation speech", label, left_inch=0.2)
        axes = drawn.add_axes(
            (0.7 / _WIDTH, 0.55 / _HEIGHT, (_WIDTH - 1.35) / _WIDTH, (_HEIGHT - head - 0.7) / _HEIGHT)
        )
        minutes, wers = [point[0] for point in points], [100 * point[1] for point in points]
        for at, _, (low, high) in points:
            axes.plot([at, at], [100 * low, 100 * high], color=look.colour, linewidth=1.6, alpha=0.55)
        axes.plot(minutes, wers, color=look.colour, linewidth=1)
        axes.plot(minutes, wers, **marker_style(look))
        levels = {name: 100 * results["systems"][name]["wer"] for name in _LEVELS if name in results["systems"]}
        axes.set_ylim(0, 1.05 * max([*levels.values(), *(100 * point[2][1] for point in points)]) or 1.0)
        _draw_levels(axes, levels)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        bare(axes)
        axes.set_xlabel("minutes of the speaker (two thirds train, one third dev)")
        axes.set_ylabel("WER %, with 95 % interval")


def _draw_levels(axes: Any, wers: Mapping[str, float]) -> None:
    """A line at the WER of each system that hears nothing of the speaker; their names moved apart."""
    names = sorted(wers, key=lambda name: -wers[name])
    heights = spread([wers[name] for name in names], axes.get_ylim()[1] * 0.06)
    for name, height in zip(names, heights, strict=True):
        axes.axhline(wers[name], color=FAINT, linewidth=0.8, linestyle=(0, (2, 2)))
        axes.annotate(name, (1, height), xycoords=("axes fraction", "data"), xytext=(4, 0),
                      textcoords="offset points", va="center", fontsize=8.5)  # fmt: skip


def settings_figure(results: Results, study: Study, path: Path, label: str) -> None:
    """Draw the WER of every cell that changes the model against its bytes, the recipe's own systems among them."""
    points = settings_points(study)
    own = {key: entry for key, entry in results["systems"].items() if entry["model_bytes"] + entry["adapter_bytes"]}
    style = looks([*own, *(key for _, key, _, _ in points)])
    head, height = head_inch(label, _WIDTH), 5.0
    with figure(path, _WIDTH, height) as drawn:
        headline(drawn, "Word error rate against size, every setting", label, left_inch=0.2)
        axes = drawn.add_axes((0.7 / _WIDTH, 0.55 / height, (_WIDTH - 1.0) / _WIDTH, (height - head - 0.7) / height))
        axes.set_xscale("log")
        for key, entry in own.items():
            size_mb = (entry["model_bytes"] + entry["adapter_bytes"]) / 1e6
            axes.plot(size_mb, 100 * entry["wer"], **marker_style(style[key], size=7.5))
            axes.annotate(key, (size_mb, 100 * entry["wer"]), xytext=(6, 3), textcoords="offset points", fontsize=8)
        for cell, key, size_bytes, wer in points:
            axes.plot(size_bytes / 1e6, 100 * wer, **marker_style(style[key], size=4.5))
            axes.annotate(cell, (size_bytes / 1e6, 100 * wer), xytext=(4, -7), textcoords="offset points",
                          fontsize=6.5, color=FAINT)  # fmt: skip
        axes.set_ylim(0, None)
        plain_log_ticks(axes)
        axes.grid(axis="both", color=GRID, linewidth=0.8)
        bare(axes)
        axes.set_xlabel("base and adapter on disk, MB (logarithmic)")
        axes.set_ylabel("WER %")
