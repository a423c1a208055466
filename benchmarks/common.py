"""What every benchmark writes beside its numbers, and what the machine can do at most."""

import os
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pqm_plugin.stages.common.provenance import circumstances

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
"""Where the real speech and models lie by default."""
_COPY_BYTES = 1 << 28
_MATRIX = 2048
_CEILING_REPEATS = 5


def meta(seed: int, n_threads: int) -> dict[str, Any]:
    """The `meta` of a benchmark's file; take it first: the checkout may have changed when the benchmark has ended."""
    script = Path(sys.argv[0]).resolve()
    command = shlex.join(["python", str(script.relative_to(ROOT)), *sys.argv[1:]])
    threads = f"{n_threads} thread{'s' if n_threads > 1 else ''}"
    return circumstances(command, seed, threads) | {"load_average": os.getloadavg()}


def ceilings() -> dict[str, float]:
    """The machine's own limits, best of some tries: copying memory (read and written bytes), products in float32."""
    source = torch.ones(_COPY_BYTES // 4)
    target = torch.empty_like(source)
    copy_s = min(_seconds(lambda: target.copy_(source)) for _ in range(_CEILING_REPEATS))
    matrix = torch.ones(_MATRIX, _MATRIX)
    product_s = min(_seconds(lambda: matrix @ matrix) for _ in range(_CEILING_REPEATS))
    return {
        "copy_gbyte_per_s": round(2 * _COPY_BYTES / copy_s / 1e9, 1),
        "float32_gflop_per_s": round(2 * _MATRIX**3 / product_s / 1e9, 1),
    }


def spread(values: Sequence[float], digits: int = 4) -> dict[str, float]:
    """Median, lowest and highest."""
    named = {"median": statistics.median(values), "low": min(values), "high": max(values)}
    return {name: round(value, digits) for name, value in named.items()}


def _seconds(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
