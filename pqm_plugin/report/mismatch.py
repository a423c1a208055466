"""Gain as a function of mismatch: over readers and conditions, what adapters bring where the base errs more."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from scipy.stats import spearmanr

from pqm_plugin.report.figures import FAINT, GRID, bare, figure, head_inch, headline, marker_style, wrap
from pqm_plugin.report.gains import comparison
from pqm_plugin.report.tables import NOTHING, OWN, SAT, Look, Results, others_of, percent, percent_interval, table

_BASE = "full"
SHOWN = (OWN, SAT)
"""Systems whose gain is shown, where they were decoded."""
_FEWEST_READERS = 3
_NOTE = (
    "Gain: word errors fewer than those of `full`. Correlation: Spearman's, over readers, of the WER of `full` with "
    "the relative reduction by `{system}`."
)


def conditions_of(results: Mapping[str, Results]) -> list[dict[str, Results]]:
    """Results of one base in two conditions or more, with three readers at least; a group a base, by the same names."""
    groups: dict[str, dict[str, Results]] = {}
    for name, found in results.items():
        systems = found["systems"]
        if {_BASE, OWN} <= systems.keys() and len(systems[_BASE]["speakers"]) >= _FEWEST_READERS:
            groups.setdefault(found["meta"]["base"], {})[name] = found
    return [group for group in groups.values() if len(group) > 1]


def short_names(conditions: Mapping[str, Results]) -> dict[str, Results]:
    """The conditions by set and kind of decoding, where that tells them apart."""
    metas = [results["meta"] for results in conditions.values()]
    names = [f"{meta.get('set', meta['corpus'])}, {meta['decoding'].partition(',')[0]}" for meta in metas]
    return dict(zip(names, conditions.values(), strict=True)) if len(set(names)) == len(names) else dict(conditions)


def points(results: Results, system: str) -> list[tuple[float, float]]:
    """WER of `full` and relative reduction by a system, for each speaker for whom `full` errs."""
    before, after = (results["systems"][key]["speakers"] for key in (_BASE, system))
    return [
        (one["wer"], 1 - after[speaker]["errors"] / one["errors"])
        for speaker, one in before.items()
        if one["errors"] and one["wer"] is not None
    ]


def correlation(results: Results, system: str) -> tuple[float, float] | None:
    """Spearman's rank correlation of the two, and its two-sided p; None where either is the same for all, or nearly no
    reader is left.
    """
    found = points(results, system)
    if len(found) < _FEWEST_READERS or any(len(set(side)) == 1 for side in zip(*found, strict=True)):
        return None
    rho, p = spearmanr(*zip(*found, strict=True))
    return float(rho), float(p)


def mismatch_parts(conditions: Mapping[str, Results], figure: str, label: str) -> list[str]:
    """The part of the page about the conditions of one base, by their headings; `figure` is a link."""
    base, conditions = next(iter(conditions.values()))["meta"]["base"], short_names(conditions)
    return [
        f"## Gain as a function of mismatch: {base}\n",
        label,
        mismatch_table(conditions),
        f"{_NOTE.format(system=OWN)} {caption(conditions)}\n",
        f"![{_alt(conditions)}]({figure})\n",
    ]


def mismatch_table(conditions: Mapping[str, Results]) -> str:
    """Base WER and gains, a row a condition."""
    headings = ["condition", "WER % of `full`"]
    headings += ["gain by `nf4+sat` %", "by `nf4+speaker` %", "by others' adapters, mean %", "correlation"]
    rows = []
    for name, results in conditions.items():
        systems, rho = results["systems"], correlation(results, OWN)
        others = [systems[key]["errors"] for key in others_of(systems)]
        errors = systems[_BASE]["errors"]
        rows.append(
            [
                name,
                percent(systems[_BASE]["wer"]),
                *(_gain(results, system) for system in (SAT, OWN)),
                percent(1 - mean(others) / errors, 1) if others and errors else NOTHING,
                f"{rho[0]:.2f}" if rho else NOTHING,
            ]
        )
    return table(headings, rows)


def _gain(results: Results, system: str) -> str:
    row = comparison(results, system, _BASE)
    return f"{percent(row['relative_wer_reduction'], 1)} {percent_interval(row['ci95'], 1)}" if row else NOTHING


def caption(conditions: Mapping[str, Results]) -> str:
    """The correlation of each condition, in words."""
    said = []
    for name, results in conditions.items():
        rho, n = correlation(results, OWN), len(points(results, OWN))
        said.append(f"{name}: {f'{rho[0]:.2f}, p = {rho[1]:.3f}' if rho else 'none to be had'}, {n} readers")
    return f"Here: {'; '.join(said)}."


def _alt(conditions: Mapping[str, Results]) -> str:
    said = "Relative reduction of word errors by adapters against the WER of full precision, a mark a reader"
    lines = []
    for name, results in conditions.items():
        for system in shown(results):
            found = points(results, system)
            ends = [(min(side), max(side)) for side in zip(*found, strict=True)] or [(0.0, 0.0)] * 2
            lines.append(
                f"{name}, {system}: WER {percent(ends[0][0], 1)} to {percent(ends[0][1], 1)} %, "
                f"reduction {percent(ends[1][0], 0)} to {percent(ends[1][1], 0)} %"
            )
    return f"{said}. {'; '.join(lines)}"


def shown(results: Results) -> Sequence[str]:
    """Those systems of a condition whose gain is drawn."""
    return [system for system in SHOWN if system in results["systems"]]


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
