"""Unpacking into memory that the next layer uses again, for mode `small`.

The process of mode `small` gives large blocks back as soon as they are freed (`processes.freed_memory_returned`): a
matrix of its own for every layer would be pages asked of the system anew, thousands of times an utterance.
"""

import ctypes
import functools
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pqm_plugin.quantize.library import bnb
from pqm_plugin.quantize.packed import PackedTensor

_OWN = threading.local()
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
    kept: Tensor | None = getattr(_OWN, "memory", None)
    if kept is None or len(kept) < n:
        kept = _OWN.memory = torch.empty(n, dtype=torch.float32, device="cpu")
    return kept[:n]
