"""Parts of a packed weight have the very bits of the whole."""

import pytest
import torch

from pqm_plugin.quantize.packed import PackedTensor, WeightFormat
from pqm_plugin.quantize.parts import unpack_in_parts, unpack_rows

FORMATS = [WeightFormat(), WeightFormat(double_quantize=True), WeightFormat("fp4", 32)]


def packed(shape, weight_format):
    return PackedTensor.pack(torch.randn(shape, generator=torch.Generator().manual_seed(0)), weight_format)


@pytest.mark.parametrize("weight_format", FORMATS, ids=str)
@pytest.mark.parametrize("shape", [(50, 176), (31, 15)])
def test_rows_are_those_of_the_whole_weight(shape, weight_format):
    pack = packed(shape, weight_format)
    rows = torch.tensor([[0, 30, 7], [7, 1, 29]])

    assert torch.equal(unpack_rows(pack, rows), pack.unpack()[rows])


@pytest.mark.parametrize("weight_format", FORMATS, ids=str)
@pytest.mark.parametrize("shape", [(3000, 176), (2100, 24), (70, 15)])
def test_parts_one_after_another_are_the_whole_weight(shape, weight_format):
    pack = packed(shape, weight_format)

    parts = [part.clone() for part in unpack_in_parts(pack, 200_000)]

    assert torch.equal(torch.cat(parts), pack.unpack())
    assert shape[0] < 1000 or len(parts) > 1
