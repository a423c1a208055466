"""Levels and scales: a search that never does worse, and errors that later columns make up for."""

import pytest
import torch

from pqm_plugin.quantize.packed import PackedTensor, WeightFormat, read_scales
from pqm_plugin.quantize.rounding import Grid, round_compensated, search_scales, spread

FORMAT = WeightFormat()


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rounded(weight, scales):
    scale = spread(read_scales(scales), weight.shape, FORMAT.block_size)
    grid = Grid("nf4")
    return grid.values[grid.nearest(weight, scale)] * scale


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_each_level_is_nearest_to_itself_and_its_code_unpacks_to_it(quant_type):
    grid = Grid(quant_type)
    weight_format = WeightFormat(quant_type)

    places = grid.nearest(3 * grid.values, torch.tensor(3.0))
    pack = PackedTensor.of(grid.codes(places), {"absmax": torch.tensor([3.0])}, (len(places),), weight_format)

    assert torch.equal(pack.unpack(), 3 * grid.values)


def test_a_searched_scale_has_a_smaller_error_than_the_largest_magnitude():
    weight = random(704, 176)

    searched = rounded(weight, search_scales(weight, FORMAT)) - weight
    largest = PackedTensor.pack(weight, FORMAT).unpack() - weight

    assert searched.norm() < 0.97 * largest.norm()


def test_a_block_of_zeros_stays_zero_and_the_rest_of_its_layer_finite():
    weight = random(3, 64)
    weight[1] = 0

    found = rounded(weight, search_scales(weight, FORMAT))

    assert torch.equal(found[1], torch.zeros(64))
    assert bool(found.isfinite().all())


def test_a_scale_belongs_to_its_block_across_the_ends_of_rows():
    found = spread(torch.tensor([1.0, 2.0]), torch.Size([3, 40]), 64)

    assert torch.equal(found[1], torch.tensor([1.0] * 24 + [2.0] * 16))
    assert torch.equal(found[2], torch.full((40,), 2.0))


def test_the_second_of_two_equal_inputs_makes_up_for_the_error_of_the_first():
    # Levels 0 and 0.0796 are next to each other: 0.04 and 0.03 go both to the upper and to the lower one by themselves.
    weight = torch.tensor([[[0.045, 0.045]]])
    gram = torch.tensor([[[1.0, 0.999], [0.999, 1.0]]])
    grid = Grid("nf4")

    alone = grid.values[grid.nearest(weight, torch.ones(()))].sum()
    together = grid.values[round_compensated(weight, gram, torch.ones_like(weight), grid)].sum()

    assert float(alone) == pytest.approx(2 * 0.07958, abs=1e-4)
    assert float(together) == pytest.approx(0.07958, abs=1e-4)


def test_independent_inputs_leave_every_weight_at_its_nearest_level():
    weight, scale, grid = random(2, 5, 300), torch.full((2, 5, 300), 3.0), Grid("nf4")
    gram = torch.diag_embed(torch.rand(2, 300, generator=torch.Generator().manual_seed(1)) + 0.1)

    found = round_compensated(weight, gram, scale, grid)

    assert torch.equal(found, grid.nearest(weight, scale))
