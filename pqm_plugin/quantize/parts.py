"""Some rows of a packed weight, where all of it would take more memory than the rest of the model."""

from collections.abc import Iterator

import torch
from torch import Tensor

from pqm_plugin.quantize.library import bnb
from pqm_plugin.quantize.packed import NESTED_BLOCK_SIZE, PackedTensor
from pqm_plugin.quantize.scratch import unpack_for_now


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
