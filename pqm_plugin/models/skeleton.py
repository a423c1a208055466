"""Networks whose weights are about to be loaded: built without drawing random ones."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# By name: some are functions of torch.nn.init, some methods of tensors, and transformers has its own in their place.
_RANDOM = frozenset({"uniform_", "normal_", "trunc_normal_", "kaiming_uniform_"})


_LARGEST = 10.0
"""Of what memory may hold by chance: more, or what is no number, would run over in the trial of a search."""


class WithoutInitialisation(TorchFunctionMode):
    """Within it no tensor is filled with random numbers, so that memory which a packed weight replaces is not touched.

    Parameters then hold whatever their memory held, or zeros where that is not small: every one must be loaded.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Give the tensor back as it is where `func` would fill it with random numbers."""
        if getattr(func, "__name__", "") in _RANDOM:
            tensor: Tensor = args[0] if args else (kwargs or {})["tensor"]
            _make_harmless(tensor)
            return tensor
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def _make_harmless(tensor: Tensor) -> None:
    """Fill `tensor` with zeros if it holds more than small numbers; fresh memory is read alone, which takes none."""
    if not tensor.numel() or tensor.is_meta or not tensor.is_floating_point():
        return
    low, high = torch.aminmax(tensor)
    if not (-_LARGEST <= float(low) and float(high) <= _LARGEST):
        tensor.zero_()
