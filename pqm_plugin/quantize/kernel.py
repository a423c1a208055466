"""Products with a packed matrix by bitsandbytes' own kernel, for mode `small` on a GPU.

The kernel reads codes and scales as they lie here, doubly quantised or not, and expands no weight in memory. Where it
is the slower (in float32 from eight rows on), bitsandbytes expands the whole matrix for the one product.
"""

import functools
import logging

import torch
from torch import Tensor
from torch.nn import functional

from pqm_plugin.quantize.library import bnb, matmul_4bit
from pqm_plugin.quantize.packed import NESTED_BLOCK_SIZE, PackedTensor, WeightFormat, nested_levels

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
