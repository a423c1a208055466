"""Computing modes and file names of a packed model; imports no library."""

from collections.abc import Sequence
from dataclasses import dataclass

from pqm_plugin.errors import PqmError

PACKED = "model.safetensors"
META = "meta.json"
"""What is recorded of the packed model, beside it."""
ABOUT = "about.json"
"""What its maker says of a model: licence, source, and the settings that it is used with."""

MODES = ("exact", "small")
"""How packed weights are computed with, see `layers.install`."""

AUTO = "auto"
_REMOVED = {"fast": "it decoded slower than full precision; use exact, or small where memory is short"}
"""Modes of earlier versions, and what is to be used instead; named for one version."""
_SHARE = 4
"""Weights may take one part in so many of the memory that is free: the search needs some, and so do others."""
_BYTES = 4
"""What a weight takes in memory in `exact`; in `small`, which keeps its codes, half a byte."""


def check_mode(mode: str, known: Sequence[str] = MODES) -> None:
    """Raise unless `mode` is one of those that are `known`.

    Raises:
        PqmError: naming them, or what to use in place of a mode that was removed.
    """
    if mode in _REMOVED:
        raise PqmError(f"mode {mode} was removed: {_REMOVED[mode]}")
    if mode not in known:
        raise PqmError(f"mode {mode}: use one of {', '.join(known)}")


@dataclass(frozen=True)
class Picked:
    """A mode, and why it was picked, in words for a log."""

    mode: str
    reason: str


def pick_mode(n_weights: int, free_bytes: int) -> Picked:
    """`exact` if its weights take a quarter of the free memory at most, or else `small`.

    What they cost; `benchmarks/RESULTS.md` has what was measured on a CPU:

    * `exact`: 4 bytes a weight. Its words are the reference.
    * `small`: half a byte a weight, and about half as much time again as `exact`, for every use of a weight unpacks
      it; the words of `exact`, but for the order of sums on a GPU.

    Args:
        free_bytes: 0 where nobody knows; it is then `exact`.
    """
    if not free_bytes:
        return Picked("exact", "nobody tells how much memory is free")
    needed = f"float32 weights of {_mb(_BYTES * n_weights)}"
    if _SHARE * _BYTES * n_weights <= free_bytes:
        return Picked("exact", f"{needed} fit {_mb(free_bytes)} of free memory")
    return Picked("small", f"{needed} are too many for {_mb(free_bytes)} of free memory")


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.0f} MB"
