"""The figure of gain against mismatch: a mark a reader, a colour a condition."""

from collections.abc import Mapping
from pathlib import Path

from pqm_plugin.report.canvas import FAINT, GRID, bare, figure, head_inch, headline, marker_style, wrap
from pqm_plugin.report.mismatch import caption, points, short_names, shown
from pqm_plugin.report.systems import OWN, Look
from pqm_plugin.report.tables import Results

_WIDTH = 8.0  # inches
_PLOT, _KEY_ROW, _CAPTION_ROW = 3.6, 0.2, 0.15
# Of Okabe and Ito (2008), as the systems' colours; the marks tell conditions apart in grey.
_CONDITIONS = (("#0072B2", "D"), ("#D55E00", "s"), ("#009E73", "o"), ("#CC79A7", "v"), ("#222222", "P"))


def mismatch_figure(conditions: Mapping[str, Results], path: Path, label: str) -> None:
    """Draw the relative reduction of each reader's errors against the WER of `full`; `SHOWN[0]` filled, others open."""
    conditions, head = short_names(conditions), head_inch(label, _WIDTH)
    told = wrap(f"Spearman's correlation with the reduction by {OWN}. {caption(conditions)}", _WIDTH)
    keys = sum(len(shown(results)) for results in conditions.values())
    foot = 0.55 + _KEY_ROW * ((keys + 1) // 2) + _CAPTION_ROW * (len(told.splitlines()) + 1)
    height = head + _PLOT + foot
    with figure(path, _WIDTH, height) as drawn:
        headline(drawn, "Gain as a function of mismatch", label, left_inch=0.2)
        axes = drawn.add_axes((0.7 / _WIDTH, foot / height, (_WIDTH - 0.9) / _WIDTH, (_PLOT - 0.15) / height))
        axes.axhline(0, color=FAINT, linewidth=0.8, linestyle=(0, (2, 2)))
        for place, (name, results) in enumerate(conditions.items()):
            colour, marker = _CONDITIONS[place % len(_CONDITIONS)]
            for system in shown(results):
                style = marker_style(Look(colour, marker, filled=system == OWN), size=5.5)
                xs, ys = ([100 * value for value in side] for side in zip(*points(results, system), strict=True))
                axes.plot(xs, ys, label=f"{name}: {system}", **style)
        axes.set_xlim(0, None)
        axes.grid(axis="both", color=GRID, linewidth=0.8)
        bare(axes)
        axes.set_xlabel("WER % of full, one mark a reader")
        axes.set_ylabel("fewer word errors than full, %")
        axes.legend(loc="upper left", bbox_to_anchor=(-0.07, -0.45 / _PLOT), ncols=2, frameon=False, fontsize=8)
        drawn.text(0.2 / _WIDTH, 0.08 / height, told, va="bottom", fontsize=8, color=FAINT)
