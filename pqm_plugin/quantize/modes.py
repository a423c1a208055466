"""The names of a packed model's files and the modes that it is computed in; needs no library to be read."""

from dataclasses import dataclass

PACKED = "model.safetensors"
META = "meta.json"
"""What is recorded of the packed model, beside it."""
ABOUT = "about.json"
"""What its maker says of a model: licence, source, and the settings that it is used with."""

MODES = ("exact", "fast", "small")
"""How packed weights are computed with, see `layers.install`."""


AUTO = "auto"
_SHARE = 4
"""Weights may take one part in so many of the memory that is free: the search needs some, and so do others."""
_BYTES = {"exact": 4, "fast": 2}
"""What a weight takes in memory, unpacked; in `small`, which keeps its codes, half a byte."""


@dataclass(frozen=True)
class Picked:
    """A mode, and why it was picked, in words for a log."""

    mode: str
    reason: str


def pick_mode(n_weights: int, free_bytes: int, *, bfloat16: bool) -> Picked:
    """The first of `exact`, `fast` and `small` whose weights take a quarter of the free memory at most.

    What they cost, in the order in which they are tried; `benchmarks/RESULTS.md` has what was measured on a CPU:

    * `exact`: 4 bytes a weight. Its words are the reference.
    * `fast`: 2 bytes a weight. Its products are faster on a CPU with bfloat16 instructions, decoding a small model is
      not, and it rounds every product, so that words may differ: it never comes before `exact`.
    * `small`: half a byte a weight, and about half as much time again as `exact`, for every use of a weight unpacks
      it; the words of `exact`, but for the order of sums on a GPU.

    Args:
        free_bytes: 0 where nobody knows; it is then `exact`.
        bfloat16: whether `fast` may be picked: the processor multiplies in bfloat16 by itself, elsewhere it is emulated
            and slower than `small`, and words may be others than those of `exact`.
    """
    if not free_bytes:
        return Picked("exact", "nobody tells how much memory is free")
    for mode in ("exact", "fast"):
        fits = _SHARE * _BYTES[mode] * n_weights <= free_bytes
        if fits and (mode == "exact" or bfloat16):
            return Picked(mode, f"{_told(mode, n_weights)} fit {_mb(free_bytes)} of free memory")
    tried = "fast" if bfloat16 else "exact"
    return Picked("small", f"{_told(tried, n_weights)} are too many for {_mb(free_bytes)} of free memory")


def _told(mode: str, n_weights: int) -> str:
    return f"{'float32' if mode == 'exact' else 'bfloat16'} weights of {_mb(_BYTES[mode] * n_weights)}"


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.0f} MB"
