"""What the machine can do at most: the rate at which memory is read, and of products of matrices."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from pqm_plugin.models.networks import fast_products
from pqm_plugin.processes import n_cores

_READ_ROWS = 1 << 14
_READ_COLUMNS = 1 << 12
_MATRIX = 2048
_TRIES, _TRIES_S = 2, 0.6


def ceilings(device: str = "cpu") -> dict[str, dict[str, float]]:
    """Rates by the number of threads, `threads1` and so on up to the cores that there are, at most two; or `cuda`.

    The best of some tries each, in 1e9 bytes or operations a second: `read_gbyte_per_s` of a matrix of 256 MiB times a
    vector, which is what a step of a decoder with one hypothesis does; `float32_gflop_per_s` of square matrices, which
    is what an encoder does, by the faster of the libraries that torch brings; `bfloat16_gflop_per_s` of the same.
    """
    if device == "cuda":
        return {"cuda": _rates(device)}
    before = torch.get_num_threads()
    found = {}
    try:
        for n_threads in range(1, min(2, n_cores()) + 1):
            torch.set_num_threads(n_threads)
            found[f"threads{n_threads}"] = _rates(device)
    finally:
        torch.set_num_threads(before)
    return found


@torch.no_grad()
def _rates(device: str) -> dict[str, float]:
    matrix = torch.ones(_READ_ROWS, _READ_COLUMNS, device=device)
    vector = torch.ones(_READ_COLUMNS, device=device)
    read_s = _best(lambda: matrix @ vector, device)
    square = torch.ones(_MATRIX, _MATRIX, device=device)
    product_s = _best(lambda: functional.linear(square, square), device)
    if device == "cpu":
        with fast_products():
            product_s = min(product_s, _best(lambda: functional.linear(square, square), device))
    halves = square.to(torch.bfloat16)
    half_s = _best(lambda: functional.linear(halves, halves), device)
    return {
        "read_gbyte_per_s": round(matrix.nbytes / read_s / 1e9, 1),
        "float32_gflop_per_s": round(2 * _MATRIX**3 / product_s / 1e9, 1),
        "bfloat16_gflop_per_s": round(2 * _MATRIX**3 / half_s / 1e9, 1),
    }


def _best(call: Callable[[], Any], device: str) -> float:
    took: list[float] = []
    while len(took) < _TRIES or sum(took) < _TRIES_S:
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        took.append(time.perf_counter() - start)
    return min(took)
