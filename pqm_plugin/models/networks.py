"""Build networks without random weights, load them strictly, and use the faster CPU kernels of torch."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from pqm_plugin.errors import PqmError

# By name: some are functions of torch.nn.init, some methods of tensors, and transformers has its own in their place.
_RANDOM = frozenset({"uniform_", "normal_", "trunc_normal_", "kaiming_uniform_"})


class WithoutInitialisation(TorchFunctionMode):
    """Within it no tensor is filled with random numbers, so that memory which a packed weight replaces is not touched.

    Parameters then hold whatever their memory held: every one must be loaded.
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
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def load_every_weight(network: nn.Module, state: Mapping[str, Tensor], weights: Path, config: Path) -> None:
    """Load the tensors of the file `weights` into the network that `config` describes.

    Raises:
        PqmError: if a tensor is missing, unknown or of another shape.
    """
    try:
        network.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        lines = " ".join(str(error).split())
        raise PqmError(f"{weights} does not fit {config}: {lines[:400]}") from error


@contextmanager
def threads(n_threads: int) -> Iterator[None]:
    """Within it torch computes with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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


def training_products() -> AbstractContextManager[Any]:
    """The same for what is trained: whatever the processor, dropout draws the same elements from the same seed."""
    return FastProducts() if available() else SameDropout()


class SameDropout(TorchFunctionMode):
    """Within it, dropout of float32 on a CPU draws other elements than torch's, as many and by the same generator."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        ours = func is functional.dropout and args and _plain(args[0])
        return (_dropout if ours else func)(*args, **(kwargs or {}))


class FastProducts(TorchFunctionMode):
    """Within it, linear layers and convolutions compute with oneDNN, their gradients too where weights are frozen.

    Dropout is that of `SameDropout`.

    The layers keep their own forward, whatever adapter or packed weight they have. Sums are rounded in another order.
    Convolutions and what normalises them leave the channels of a place side by side in memory, where the linear layers
    around them have them: transposing is then no work, and oneDNN's code for this layout is several times faster.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        faster = _FASTER.get(func)
        return (faster if faster is not None and args and _plain(args[0]) else func)(*args, **(kwargs or {}))


def _plain(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.device.type == "cpu"


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return found


class _Frozen(torch.autograd.Function):
    """A product with a weight (out, in) that is frozen: a gradient passes to what came in alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(N, in) to (N, out)."""
        ctx.save_for_backward(weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """(N, out) to (N, in)."""
        (weight,) = ctx.saved_tensors
        # The weight as it lies: copying it costs a tenth of the product.
        return _product(gradients[0].contiguous(), weight.t(), None), None, None


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    few = x.numel() < _MIN_ROWS * x.shape[-1]
    if few or (torch.is_grad_enabled() and (weight.requires_grad or (bias is not None and bias.requires_grad))):
        return functional.linear(x, weight, bias)
    if not (torch.is_grad_enabled() and x.requires_grad):
        return _product(x, weight, bias)
    # As rows: what torch sees as a view made within a function may not be added to in place, as some adapters do.
    found: Tensor = _Frozen.apply(x.reshape(-1, x.shape[-1]), weight, bias)
    return found.reshape(*x.shape[:-1], -1)


def _conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = (1,),
    padding: Any = (0,),
    dilation: Any = (1,),
    groups: int = 1,
) -> Tensor:
    """Of `x` (B, C, T): over one place it is a product, else a convolution in two dimensions of height 1."""
    if x.dim() != 3 or not all(isinstance(one, tuple) for one in (stride, padding, dilation)):
        return torch.conv1d(x, weight, bias, stride, padding, dilation, groups)
    if (weight.shape[2], groups, *stride, *padding) == (1, 1, 1, 0):
        return _linear(x.mT.contiguous(), weight[:, :, 0], bias).mT
    wide = _channels_last(x[:, :, None]), weight[:, :, None], bias
    return torch.conv2d(*wide, (1, *stride), (0, *padding), (1, *dilation), groups)[:, :, 0]


def _conv2d(x: Tensor, *others: Any, **named: Any) -> Tensor:
    return torch.conv2d(_channels_last(x) if x.dim() == 4 else x, *others, **named)


def _batch_norm(x: Tensor, *others: Any, **named: Any) -> Tensor:
    """For `x` (B, C, T) torch's code would change the layout."""
    if x.dim() != 3:
        return functional.batch_norm(x, *others, **named)
    return functional.batch_norm(_channels_last(x[:, :, None]), *others, **named)[:, :, 0]


def _dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """By 16 random bits an element, of which torch gives four at once, many times faster than one number an element."""
    if not training or inplace or not 0 < p < 1:
        return functional.dropout(x, p, training, inplace)
    bits = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    kept = bits[: x.numel()].view(x.shape) >= round(p * 2**16) - 2**15
    # As numbers: a product with them costs half of what selecting costs.
    return x * kept.to(x.dtype).mul_(1 / (1 - p))


def _channels_last(x: Tensor) -> Tensor:
    """`x` (B, C, H, W) with its channels side by side in memory."""
    if x.shape[1] == 1:
        # One channel lies so as it is, but only these strides say so.
        return x[:, 0, :, :, None].contiguous().permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)


_FASTER: Mapping[Callable[..., Any], Callable[..., Tensor]] = {
    functional.linear: _linear,
    torch.conv1d: _conv1d,
    torch.conv2d: _conv2d,
    functional.batch_norm: _batch_norm,
    functional.dropout: _dropout,
}
