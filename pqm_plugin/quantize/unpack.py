"""Use packed weights without keeping them unpacked: into memory that is used again, by rows, or in a GPU's kernel.

Mode `small` uses all three. Its process returns large blocks as soon as they are freed (see
`processes.freed_memory_returned`), so a new matrix for every layer would mean new pages from the system, thousands of
times an utterance. On a GPU the kernel reads codes and scales as they are stored here, doubly quantised or not, and
unpacks no weight in memory. Where that is slower (in float32 from eight rows on), bitsandbytes unpacks the whole matrix
for the one product.
"""

import ctypes
import functools
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pqm_plugin.imports import quick_imports
from pqm_plugin.quantize.packed import NESTED_BLOCK_SIZE, PackedTensor, WeightFormat, bnb, nested_levels

with quick_imports():
    from bitsandbytes import matmul_4bit

_SCRATCH = threading.local()
_LARGEST_BLOCK = 1024
"""From 2048 on bitsandbytes computes otherwise, for its kernel's accuracy."""


def unpack_for_now(pack: PackedTensor) -> Tensor:
    """What `pack.unpack()` gives, bit for bit, in memory that is valid until this thread's next call.

    bitsandbytes' own kernel for a CPU, called without its wrapper, which has no `out` there. Where it is missing or not
    meant for such a weight, the result has memory of its own.
    """
    kernel = _kernel(pack.weight_format.quant_type)
    n = pack.shape.numel()
    if kernel is None or pack.codes.device.type != "cpu" or n % 2 or pack.weight_format.block_size > _LARGEST_BLOCK:
        return pack.unpack()
    found = _memory(n)
    scales = pack.scales()
    sizes = (ctypes.c_longlong(size) for size in (pack.weight_format.block_size, 1, n))
    kernel(*(ctypes.c_void_p(tensor.data_ptr()) for tensor in (pack.codes, scales, found)), *sizes)
    return found.view(pack.shape)


@functools.cache
def _kernel(quant_type: str) -> Callable[..., Any] | None:
    found = getattr(bnb.lib, f"cdequantize_blockwise_cpu_{quant_type}_fp32", None)
    # A library without it gives a function that only raises.
    return found if hasattr(found, "argtypes") else None


def _memory(n: int) -> Tensor:
    """The first `n` float32 of this thread's own memory, which grows to the largest that was asked for."""
    kept: Tensor | None = getattr(_SCRATCH, "memory", None)
    if kept is None or len(kept) < n:
        kept = _SCRATCH.memory = torch.empty(n, dtype=torch.float32, device="cpu")
    return kept[:n]


def unpack_rows(pack: PackedTensor, rows: Tensor) -> Tensor:
    """Rows of a packed matrix (V, D), float32 (*rows.shape, D), with the bits that `unpack` gives them.

    Args:
        rows: int64 or int32 of any shape, values in [0, V).
    """
    width = pack.shape[1:].numel()
    places = rows.reshape(-1, 1).long() * width + torch.arange(width, device=rows.device)
    two = pack.codes[places // 2]
    # The first of two weights in a byte is in its upper half.
    codes = torch.where(places % 2 == 0, two >> 4, two & 15).long()
    levels = bnb.get_4bit_type(pack.weight_format.quant_type, device=rows.device)
    values = levels[codes] * pack.scales()[places // pack.weight_format.block_size]
    return values.reshape(*rows.shape, *pack.shape[1:])


def unpack_in_parts(pack: PackedTensor, size_bytes: int) -> Iterator[Tensor]:
    """The rows of a packed matrix one stretch after another, each of about `size_bytes` as float32 at most.

    Each is in memory that the next one takes.
    """
    width = pack.shape[1:].numel()
    fmt = pack.weight_format
    unit = fmt.block_size * (NESTED_BLOCK_SIZE if fmt.double_quantize else 1)
    rows_a_unit = torch.lcm(torch.tensor(unit), torch.tensor(width)).item() // width
    step = int(rows_a_unit * max(1, size_bytes // (4 * width * rows_a_unit)))
    for first in range(0, pack.shape[0], step):
        yield unpack_for_now(_stretch(pack, first, min(first + step, pack.shape[0])))


def _stretch(pack: PackedTensor, first: int, end: int) -> PackedTensor:
    """The same codes and scales, seen from row `first`, where blocks begin, to row `end`."""
    shape = torch.Size((end - first, *pack.shape[1:]))
    offset = first * pack.shape[1:].numel()
    starts = {"codes": 2, "absmax": pack.weight_format.block_size}
    starts["nested_absmax"] = starts["absmax"] * NESTED_BLOCK_SIZE
    tensors = {}
    for name, (expected, _) in PackedTensor.expected_tensors(shape, pack.weight_format).items():
        whole = getattr(pack, name)
        start = offset // starts[name] if name in starts else 0
        tensors[name] = whole[start : start + expected[0]] if expected else whole
    return PackedTensor(tensors, shape, pack.weight_format)


_TRIAL = (3, 40, 2)
"""Rows, outputs, and blocks in a row of inputs."""
_TOLERANCE = 1e-4


def kernel_takes(x: Tensor, pack: PackedTensor) -> bool:
    """Whether `kernel_product` is for this: on a GPU, without gradients, for a matrix whose rows are whole blocks.

    Elsewhere weights are unpacked and torch multiplies. Gradients would need the unpacked weight anyway; blocks that
    span rows are not known to the kernel (bitsandbytes then unpacks, too, and warns at every call). The first time that
    a format is met on a device, the kernel's product is compared with torch's; where it is another, it is not used.
    """
    if not x.is_cuda or torch.is_grad_enabled() or len(pack.shape) != 2 or not x.numel():
        return False
    return not pack.shape[1] % pack.weight_format.block_size and _agrees(x.device, pack.weight_format)


def kernel_product(x: Tensor, pack: PackedTensor, bias: Tensor | None) -> Tensor:
    """`x` (…, in) times a packed matrix (out, in), and `bias`; (…, out), both in the dtype of `x`, sums in float32."""
    fmt = pack.weight_format
    nested = None
    if fmt.double_quantize:
        levels = nested_levels(pack.codes.device)
        nested = bnb.QuantState(pack.nested_absmax, code=levels, blocksize=NESTED_BLOCK_SIZE, dtype=torch.float32)
    state = bnb.QuantState(
        pack.absmax,
        shape=pack.shape,
        code=bnb.get_4bit_type(fmt.quant_type, device=pack.codes.device),
        blocksize=fmt.block_size,
        quant_type=fmt.quant_type,
        dtype=x.dtype,
        offset=pack.nested_offset if nested else None,
        state2=nested,
    )
    product: Tensor = matmul_4bit(x, pack.codes, state, bias=None if bias is None else bias.to(x.dtype))
    return product


@functools.cache
def _agrees(device: torch.device, weight_format: WeightFormat) -> bool:
    n_rows, n_outputs, n_blocks = _TRIAL
    noise = torch.Generator().manual_seed(0)
    weight = torch.randn(n_outputs, n_blocks * weight_format.block_size, generator=noise)
    x = torch.randn(n_rows, weight.shape[1], generator=noise).to(device)
    pack = PackedTensor.pack(weight, weight_format).to(device)
    expected = functional.linear(x, pack.unpack())
    gap = float((kernel_product(x, pack, None) - expected).abs().max() / expected.abs().max())
    if gap < _TOLERANCE:
        return True
    logging.warning("%s: bitsandbytes' product in 4 bits differs by %.2g: weights are unpacked instead", device, gap)
    return False
