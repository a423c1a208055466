"""Numbers as the page of benchmarks writes them."""

from collections.abc import Mapping
from typing import Any

Results = Mapping[str, Any]


def spread_of(found: Mapping[str, float], digits: int = 3) -> str:
    """Median with the lowest and the highest."""
    return f"{found['median']:.{digits}f} [{found['low']:.{digits}f}, {found['high']:.{digits}f}]"


def mappings(found: Results) -> dict[str, Any]:
    """Those entries of a part of the results that have entries of their own."""
    return {name: one for name, one in found.items() if isinstance(one, Mapping)}
