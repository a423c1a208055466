"""One small table of several results files side by side, for a first page."""

import re
from collections.abc import Mapping

from pqm_plugin.report.markdown import NOTHING, cell, number, percent, percent_interval, table
from pqm_plugin.report.systems import describe, ordered
from pqm_plugin.report.tables import Results, times_smaller

_REFERENCE = "full"
_SEVERAL = re.compile(r"\+[a-z-]+[0-9]+$")


def summary_table(conditions: Mapping[str, Results]) -> str:
    """Size of every system and, for each condition, its WER, interval and relative reduction against `full`.

    Systems with the adapter of another speaker are shown once: where there are several such pairings, by the first.

    Args:
        conditions: results by the words that stand above their columns; the first tells the sizes.
    """
    first = next(iter(conditions.values()))
    shown = [system for system in ordered(first["systems"]) if not _SEVERAL.search(system)]
    headings = ["system", "what it is", "MB", "times smaller"]
    for name in conditions:
        headings += [f"WER %, {name}", "95 % interval", f"against `{_REFERENCE}` %"]
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
    """WER, interval and reduction of one system in one condition."""
    entry = results["systems"].get(system)
    if entry is None:
        return [NOTHING] * 3
    found = [row for row in results["comparisons"] if (row["system"], row["against"]) == (system, _REFERENCE)]
    gain = NOTHING
    if found:
        gain = f"{percent(found[0]['relative_wer_reduction'], 1)} {percent_interval(found[0]['ci95'], 1)}"
    return [percent(entry["wer"]), percent_interval(entry["wer_ci95"]), gain]
