"""Matrix products and convolutions of float32 on a CPU by the faster of the libraries that torch brings."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

# Below so many rows the libraries are equal.
_MIN_ROWS = 32


@cache
def available() -> bool:
    """Whether oneDNN is built in, its product takes plain tensors, and the processor is one where it is the faster.

    torch multiplies float32 matrices with MKL, which leaves half of the AVX-512 units of a processor idle that Intel
    did not make; oneDNN does not.
    """
    if not torch.backends.mkldnn.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    x, weight = torch.ones(_MIN_ROWS, 16), torch.eye(16)
    try:
        # Private to torch, but what its compiler emits; a version without it is served by MKL.
        return torch.equal(_product(x, weight, None), x)
    except (AttributeError, RuntimeError, TypeError):
        return False


def fast_products() -> AbstractContextManager[Any]:
    """A context in which the faster library computes, or, where there is none, nothing is changed."""
    return FastProducts() if available() else nullcontext()


class FastProducts(TorchFunctionMode):
    """Within it, what linear layers and 2-D convolutions compute without gradient is computed by oneDNN.

    The layers keep their own forward, whatever adapter or packed weight they have. Sums are rounded in another order.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is functional.linear and not kwargs and _gains(args[0]):
            return _product(args[0], args[1], args[2] if len(args) > 2 else None)
        if func is torch.conv2d and args[0].dim() == 4 and args[0].shape[1] > 1 and _gains(args[0]):
            args = (args[0].contiguous(memory_format=torch.channels_last), *args[1:])
        return func(*args, **(kwargs or {}))


def _gains(x: Tensor) -> bool:
    plain = x.dtype == torch.float32 and x.device.type == "cpu" and not torch.is_grad_enabled()
    return plain and x.numel() >= _MIN_ROWS * x.shape[-1]


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return found
