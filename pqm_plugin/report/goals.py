"""What a recipe set out to reach, and whether it did: goals are data of the recipe, measures are here."""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pqm_plugin.report.comparisons import comparison
from pqm_plugin.report.gains import kept
from pqm_plugin.report.markdown import NOTHING, percent_interval, table
from pqm_plugin.report.systems import SAT
from pqm_plugin.report.tables import Results, times_smaller

_SIGNS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
}
_NOTE = (
    "Numbers in percent, sizes in times. A goal that was not measured, or that has nothing to be measured by (the "
    "share of a gain that is not shown), has a dash. An interval that includes zero shows no difference, whether a "
    "goal is met or not.\n"
)


@dataclass(frozen=True)
class Goal:
    """A bound on what a system reaches, in each of several results files.

    `measure` is one of: `reduction`, relative WER reduction against another system, %; `reduction_low`, the lower end
    of its interval; `increase`, relative increase of WER against another, %; `times_smaller`, than full precision,
    adapter included; `adapter_share`, parameters of the adapter, % of the base's; `kept`, the share of the gain of
    transcripts over another system that is left, %.
    """

    what: str = ""
    of: tuple[str, ...] = ()
    measure: str = "reduction"
    system: str = "nf4+speaker"
    against: str = "full"
    sign: str = ">="
    goal: float = 0.0

    def __post_init__(self) -> None:
        if self.measure not in _MEASURES or self.sign not in _SIGNS:
            known = f"measure is one of {', '.join(_MEASURES)}, sign one of {' '.join(_SIGNS)}"
            raise ValueError(f"goal {self.what!r}: measure {self.measure!r}, sign {self.sign!r}: {known}")


def goals_parts(goals: Sequence[Goal], results: Mapping[str, Results], label: str) -> list[str]:
    """The part of the page, empty where the recipe has no goals; `results` by the names of their files."""
    if not goals:
        return []
    rows = [_row(goal, name, results.get(name)) for goal in goals for name in goal.of]
    heads = ("goal", "results", "measured", "95 % interval", "bound", "met")
    return ["## Goals\n", label, table(heads, rows, text_columns=2), _NOTE]


def _row(goal: Goal, name: str, results: Results | None) -> list[str]:
    digits = 2 if goal.measure in ("times_smaller", "adapter_share") else 1
    value = _MEASURES[goal.measure](goal, results) if results and goal.system in results["systems"] else None
    bound = f"{goal.sign} {goal.goal:g}" + (", lower end" if goal.measure == "reduction_low" else "")
    if results is None or value is None:
        return [goal.what, f"`{name}`", NOTHING, NOTHING, bound, NOTHING]
    shown = _reduction(goal, results) if goal.measure == "reduction_low" else value
    met = "yes" if _SIGNS[goal.sign](value, goal.goal) else "no"
    said = f"{shown:.{digits}f}{_beside(goal, results)}"
    return [goal.what, f"`{name}`", said, _interval(goal, results), bound, met]


def _beside(goal: Goal, results: Results) -> str:
    """What of a gain the adapter keeps that has heard nobody: without it, a share that is kept says little."""
    nobody = kept(results, SAT, goal.against) if goal.measure == "kept" and goal.system != SAT else None
    return f" (`{SAT}` {100 * nobody:.1f})" if nobody is not None else ""


def _reduction(goal: Goal, results: Results) -> float | None:
    row = comparison(results, goal.system, goal.against)
    return None if row is None or row["relative_wer_reduction"] is None else 100 * row["relative_wer_reduction"]


def _increase(goal: Goal, results: Results) -> float | None:
    reduction = _reduction(goal, results)
    return None if reduction is None else -reduction


def _reduction_low(goal: Goal, results: Results) -> float | None:
    row = comparison(results, goal.system, goal.against)
    low = row.get("ci95", (None,))[0] if row else None
    return None if low is None else 100 * low


def _kept(goal: Goal, results: Results) -> float | None:
    share = kept(results, goal.system, goal.against)
    return None if share is None else 100 * share


def _adapter_share(goal: Goal, results: Results) -> float | None:
    return 100 * float(results["systems"][goal.system]["adapter_fraction"])


_MEASURES: dict[str, Callable[[Goal, Results], float | None]] = {
    "reduction": _reduction,
    "reduction_low": _reduction_low,
    "increase": _increase,
    "times_smaller": lambda goal, results: times_smaller(results, goal.system),
    "adapter_share": _adapter_share,
    "kept": _kept,
}


def _interval(goal: Goal, results: Results) -> str:
    row = comparison(results, goal.system, goal.against)
    if goal.measure not in ("reduction", "increase", "reduction_low") or not row or "ci95" not in row:
        return NOTHING
    low, high = row["ci95"]
    if goal.measure == "increase":
        low, high = (None if end is None else -end for end in (high, low))
    return percent_interval((low, high), 1)
