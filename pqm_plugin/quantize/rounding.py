"""Which 4-bit levels and scales stand for a weight, so that a layer's output, not the weight itself, changes least."""

import torch
from torch import Tensor
from torch.nn import functional

from pqm_plugin.quantize.packed import WeightFormat, levels, store_scales

_RATIOS = torch.linspace(0.70, 1.04, 18)
"""Scales that are tried for a block, as parts of its largest magnitude."""
_TINY = torch.finfo(torch.float32).tiny
_CHUNK = 128
"""Columns whose compensation reaches the columns behind them in one product."""


class Grid:
    """The levels of a type, sorted, and how to find the nearest."""

    def __init__(self, quant_type: str) -> None:
        values, self._codes = levels(quant_type).sort()
        self.values = values
        self._borders = (values[1:] + values[:-1]) / 2

    def nearest(self, weight: Tensor, scale: Tensor) -> Tensor:
        """Places in `values` of the levels that, times `scale`, are nearest to `weight`, int64.

        What lies beyond the last level gets the last; a scale of zero stands for a block of zeros.
        """
        return torch.bucketize(weight / scale.clamp_min(_TINY), self._borders)

    def codes(self, places: Tensor) -> Tensor:
        """Codes of the levels at `places`, uint8."""
        return self._codes[places].to(torch.uint8)


def search_scales(weight: Tensor, weight_format: WeightFormat) -> dict[str, Tensor]:
    """For each block of the flattened weight the scale with the least squared error, as `store_scales` keeps it."""
    grid, size = Grid(weight_format.quant_type), weight_format.block_size
    flat = weight.reshape(-1)
    blocks = functional.pad(flat, (0, -flat.numel() % size)).reshape(-1, size)
    largest = blocks.abs().amax(1, keepdim=True)
    best = torch.full_like(largest, torch.inf)
    chosen = largest.clone()
    for ratio in _RATIOS:
        scale = largest * ratio
        error = blocks - grid.values[grid.nearest(blocks, scale)] * scale
        cost = error.square().sum(1, keepdim=True)
        better = cost < best
        best, chosen = torch.where(better, cost, best), torch.where(better, scale, chosen)
    return store_scales(chosen[:, 0].contiguous(), weight_format)


def spread(scales: Tensor, shape: torch.Size, block_size: int) -> Tensor:
    """The scale of each weight, in the weight's shape: blocks run on over the ends of rows."""
    return scales.repeat_interleave(block_size)[: shape.numel()].reshape(shape)


def round_compensated(weight: Tensor, gram: Tensor, scale: Tensor, grid: Grid) -> Tensor:
    """Round column after column, each error made up for by the columns that follow; returns places in the grid.

    Args:
        weight: float32 (G, O, K), G groups of O rows.
        gram: float64 or float32 (G, K, K), positive definite: second moments of the inputs.
        scale: the scale of each weight, (G, O, K).

    Source: Frantar et al. 2023 (GPTQ), with columns in order of falling second moment.
    """
    order = gram.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True)
    rows = order[:, None, :].expand_as(weight)
    left, steps = weight.gather(2, rows), scale.gather(2, rows)
    sorted_gram = gram.gather(1, order[:, :, None].expand_as(gram)).gather(2, order[:, None, :].expand_as(gram))
    factor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(sorted_gram)), upper=True).float()
    places = torch.empty_like(left, dtype=torch.int64)
    n = left.shape[2]
    for first in range(0, n, _CHUNK):
        last = min(first + _CHUNK, n)
        errors = left.new_empty(*left.shape[:2], last - first)
        for column in range(first, last):
            step = steps[:, :, column]
            at = grid.nearest(left[:, :, column], step)
            places[:, :, column] = at
            error = (left[:, :, column] - grid.values[at] * step) / factor[:, column, column, None]
            errors[:, :, column - first] = error
            left[:, :, column:last] -= error[:, :, None] * factor[:, None, column, column:last]
        left[:, :, last:] -= errors @ factor[:, first:last, last:]
    return torch.empty_like(places).scatter_(2, rows, places)
