"""A bound on the memory of what a stranger's configuration builds."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pqm_plugin.errors import PqmError

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
