"""Decoders in processes of one thread each, as recipes run them with `--nj`: the other way to use all cores."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.openers import best_of, import_stock, opened, stock
from pqm_plugin.models.options import SearchOptions

_WORKER: dict[tuple[str, int], Any] = {}
"""In a worker, what it has opened: by `stock` or `full`, and beam."""


class Processes:
    """Workers of one thread, each with stock ESPnet and the float model here, which share out what they decode."""

    def __init__(self, n: int, model: Path, searches: Mapping[int, SearchOptions], device: str) -> None:
        """Let `n` workers start; they open what is wanted, by beam, while this process goes on."""
        self._n = n
        self._pool = ProcessPoolExecutor(
            n, get_context("spawn"), initializer=_open, initargs=(model, dict(searches), device)
        )
        for _ in range(n):
            self._pool.submit(_nothing)

    def best(self, name: str, beam: int, audio: Sequence[np.ndarray], size: int) -> list[tuple[str, float]]:
        """Words and scores of all, of which every worker decodes each n-th, `size` at a time.

        Args:
            name: `stock` or `full`.
        """
        shares = [audio[place :: self._n] for place in range(self._n)]
        running = [self._pool.submit(_decode, name, beam, share, size) for share in shares]
        found: list[tuple[str, float]] = [("", 0.0)] * len(audio)
        for place, one in enumerate(running):
            found[place :: self._n] = one.result()
        return found

    def close(self) -> None:
        """End the workers."""
        self._pool.shutdown()


def _open(model: Path, searches: Mapping[int, SearchOptions], device: str) -> None:
    torch.set_num_threads(1)
    import_stock()
    for beam, search in searches.items():
        _WORKER["stock", beam] = stock(model, search, device)
        _WORKER["full", beam] = opened(model, search, device)


def _nothing() -> None:
    """A task for a worker to be started for."""


def _decode(name: str, beam: int, audio: Sequence[np.ndarray], size: int) -> list[tuple[str, float]]:
    return best_of(_WORKER[name, beam], audio, 1 if name == "stock" else size)
