"""What all benchmarks found, in one file, by keys that other pages quote."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

REQUIRED = (
    "decode.beam10.speedup",
    "decode.beam1.speedup",
    "modes.exact.weights_memory_ratio",
    "modes.small.weights_memory_ratio",
    "adapt.speakers10.speedup",
    "adapt.speakers10.speedup_by_words",
    "switch.ms",
)
"""Numbers that README and tests quote: they must be there under these names."""
WRITERS = {"switch": "growth"}
"""The script that finds a part of the results, where it has another name."""


def value(results: Mapping[str, Any], key: str) -> Any:
    """What stands under a dotted key.

    Raises:
        KeyError: if nothing does.
    """
    found: Any = results
    for name in key.split("."):
        found = found[name]
    return found


def missing(results: Mapping[str, Any], keys: Iterable[str] = REQUIRED) -> list[str]:
    """Those of the keys under which there is no finite number, but for what scripts find that were left out."""
    skipped = results["meta"].get("skipped", ())
    return [key for key in keys if _writer(key) not in skipped and not _is_number(results, key)]


def _writer(key: str) -> str:
    part = key.partition(".")[0]
    return WRITERS.get(part, part)


def _is_number(results: Mapping[str, Any], key: str) -> bool:
    try:
        found = value(results, key)
    except (KeyError, TypeError):
        return False
    return isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found)


def merged(parts: Mapping[str, Mapping[str, Any]], about: Mapping[str, Any]) -> dict[str, Any]:
    """One file of those that the scripts wrote, by their names; of every ceiling the highest that was measured."""
    ceilings: dict[str, dict[str, float]] = {}
    found: dict[str, Any] = {}
    for part in parts.values():
        for threads, rates in part["ceilings"].items():
            known = ceilings.setdefault(threads, {})
            known.update({name: max(rate, known.get(name, 0)) for name, rate in rates.items()})
        found |= {name: content for name, content in part.items() if name not in ("meta", "ceilings", "request")}
    of_parts = {name: part["meta"] | {"took_s": part["request"]["took_s"]} for name, part in parts.items()}
    return {"meta": {**about, "parts": of_parts}, "ceilings": ceilings, **found}
