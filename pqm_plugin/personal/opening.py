"""Load a personal model's packed weights within a memory bound; the folder may be untrusted."""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pqm_plugin.devices import free_bytes
from pqm_plugin.engine import packing as engine
from pqm_plugin.errors import PqmError
from pqm_plugin.models.families import family_of, files_elsewhere
from pqm_plugin.models.interface import Recognizer
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.personal.folder import ModelFolder
from pqm_plugin.quantize.modes import pick_mode

_SIZED = ("empty", "zeros", "ones", "full", "rand", "randn", "new_empty", "new_zeros", "new_ones", "new_full")
_LONGEST = 2**31


class _Budget(TorchDispatchMode):
    """Adds up the tensors that are asked for by size, before they are made."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__()
        self._left = size_bytes

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name in _SIZED:
            sizes = args[1] if name.startswith("new_") else args[0]
            dtype = kwargs.get("dtype") or torch.float32
            self._left -= math.prod(sizes) * dtype.itemsize
        elif name == "arange" and any(isinstance(value, int | float) and abs(value) > _LONGEST for value in args):
            self._left = -1
        if self._left < 0:
            raise PqmError(
                "the configuration asks for far more memory than the weights beside it need: it is not theirs, "
                "fetch or make the model again"
            )
        return func(*args, **kwargs)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """torch would load its compiler, which takes seconds, to say that this is not to be compiled."""
        return False


@contextmanager
def at_most_bytes(size_bytes: int) -> Iterator[None]:
    """Within it, tensors that are made from sizes may take so many bytes in all.

    Raises:
        PqmError: from the line that asks for more, before any memory is taken for it.
    """
    with _Budget(size_bytes):
        yield


# A byte of a packed file holds two weights, of which each is four bytes in memory; then buffers, twice for safety.
_MEMORY_FACTOR = 32
_MEMORY_SLACK_BYTES = 512 * 2**20
_WEIGHTS_A_BYTE = 2


@dataclass(frozen=True)
class Opened:
    """A recogniser in memory, and the hash of the packed file that it is from."""

    recognizer: Recognizer
    sha256: str


def open_packed(folder: ModelFolder, search: SearchOptions, device: str = "cpu", mode: str = "exact") -> Opened:
    """Load the packed base, in evaluation mode; where `search.guard` is `auto`, its words are guarded.

    Raises:
        PqmError: if the weights are not those of the record, or the configuration is not theirs: it names files
            elsewhere, asks for far more memory than they need, or builds no model.
    """
    found = folder.intact()
    family_of(folder.path)
    if search.guard == "auto":
        search = replace(search, guard="always")
    _refuse(folder, files_elsewhere(folder.path))
    budget = folder.packed.stat().st_size * _MEMORY_FACTOR + _MEMORY_SLACK_BYTES
    try:
        recognizer = engine.open_packed(folder.path, search, device, mode, at_most_bytes(budget))
    except PqmError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise PqmError(
            f"{folder.path}: its configuration builds no model ({reason}): fetch or make it again"
        ) from error
    return Opened(recognizer, found)


def mode_for(folder: ModelFolder, device: str) -> str:
    """The mode that suits a device and what is free on it now; the log says which and why."""
    # The size of the file, for a record may say anything.
    n_weights = _WEIGHTS_A_BYTE * folder.packed.stat().st_size
    picked = pick_mode(n_weights, free_bytes(device))
    logging.info("mode auto: %s, for %s on %s", picked.mode, picked.reason, device)
    return picked.mode


def _refuse(folder: ModelFolder, elsewhere: Sequence[str]) -> None:
    if elsewhere:
        raise PqmError(
            f"{folder.path}: its configuration names {elsewhere[0]!r}, which is outside of it: only a model whose "
            "files lie together is opened"
        )
