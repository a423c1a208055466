"""One small table of several results files side by side, for a first page."""

import re
from collections.abc import Mapping
from typing import Any

from pqm_plugin.report.comparisons import comparison
from pqm_plugin.report.markdown import NOTHING, cell, number, percent, percent_interval, table
from pqm_plugin.report.systems import describe, ordered
from pqm_plugin.report.tables import Results, times_smaller

_REFERENCE = "full"
_SEVERAL = re.compile(r"\+[a-z-]+[0-9]+$")


def summary_table(conditions: Mapping[str, Results]) -> str:
    """Size of every system and, for each condition, its WER and its relative reduction against `full`.

    The reduction has its interval, and stands once as it is and once after normalisation, where a text format that was
    learned counts for nothing.

    Systems with the adapter of another speaker are shown once: where there are several such pairings, by the first.

    Args:
        conditions: results by the words that stand above their columns; the first tells the sizes.
    """
    first = next(iter(conditions.values()))
    shown = [system for system in ordered(first["systems"]) if not _SEVERAL.search(system)]
    headings = ["system", "what it is", "MB", "times smaller"]
    for name in conditions:
        headings += [f"WER %, {name}", f"against `{_REFERENCE}` %", "normalised %"]
    rows = []
    for system in shown:
        entry = first["systems"][system]
        size_bytes = (entry["model_bytes"] or 0) + (entry["adapter_bytes"] or 0)
        row = [
            f"`{system}`",
            cell(describe(system)),
            number(size_bytes / 1e6, 1),
            number(times_smaller(first, system), 1),
        ]
        for results in conditions.values():
            row += _cells(results, system)
        rows.append(row)
    return table(headings, rows, text_columns=2)


def _cells(results: Results, system: str) -> list[str]:
    """WER and reductions of one system in one condition."""
    entry = results["systems"].get(system)
    if entry is None:
        return [NOTHING] * 3
    row = comparison(results, system, _REFERENCE)
    return [percent(entry["wer"]), *([_gain(row), _gain(row["normalized"])] if row else [NOTHING] * 2)]


def _gain(row: Mapping[str, Any]) -> str:
    return f"{percent(row['relative_wer_reduction'], 1)} {percent_interval(row['ci95'], 1)}"
