"""What a weight in 4 bits promises: the definition of NF4 to the bit, for every shape."""

import pytest
import torch

from pqm_plugin.quantize.packed import PackedTensor, WeightFormat

# QLoRA (Dettmers et al. 2023), appendix E: the 16 levels of NF4.
NF4_LEVELS = [
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
]
SHAPES = [(64,), (704, 176), (176, 704), (5000, 32), (176, 176, 3, 3), (176, 1, 31), (7, 13), (352, 176, 1)]


def reference(weight: torch.Tensor, block_size: int = 64) -> torch.Tensor:
    """NF4 from its definition: flatten, scale each block by its largest magnitude, take the nearest level."""
    levels = torch.tensor(NF4_LEVELS)
    padding = -weight.numel() % block_size
    blocks = torch.nn.functional.pad(weight.reshape(-1), (0, padding)).reshape(-1, block_size)
    scales = blocks.abs().amax(dim=1, keepdim=True)
    nearest = (blocks[:, :, None] / scales[:, :, None] - levels).abs().argmin(dim=2)
    return (levels[nearest] * scales).reshape(-1)[: weight.numel()].reshape(weight.shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_unpacking_gives_the_nearest_nf4_level_for_shapes_of_any_kind(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))

    unpacked = PackedTensor.pack(weight, WeightFormat()).unpack()

    expected = reference(weight)
    # A weight exactly between two levels may go to either, so a handful may differ; an error of shape shifts all.
    assert unpacked.shape == weight.shape
    assert (unpacked != expected).float().mean() < 1e-4
    assert (unpacked - weight).norm() / weight.norm() < 0.12


def test_gaussian_weights_lose_nine_percent():
    weight = torch.randn(1000, 640, generator=torch.Generator().manual_seed(0))

    error = (PackedTensor.pack(weight, WeightFormat()).unpack() - weight).norm() / weight.norm()

    assert error == pytest.approx(0.092, abs=0.002)


def test_zero_weights_stay_zero_and_the_largest_of_a_block_stays_itself():
    weight = torch.zeros(2, 64)
    weight[1, 3] = -0.5

    unpacked = PackedTensor.pack(weight, WeightFormat()).unpack()

    assert torch.equal(unpacked, weight)


@pytest.mark.parametrize(("double", "bits"), [(False, 4.5), (True, 4.127)])
def test_bits_a_weight_are_those_of_the_format(double, bits):
    pack = PackedTensor.pack(torch.randn(1024, 1024), WeightFormat(double_quantize=double))

    assert 8 * pack.size_bytes / 1024**2 == pytest.approx(bits, abs=0.001)


def test_double_quantisation_changes_scales_by_little():
    weight = torch.randn(704, 176, generator=torch.Generator().manual_seed(2))

    single = PackedTensor.pack(weight, WeightFormat()).unpack()
    double = PackedTensor.pack(weight, WeightFormat(double_quantize=True)).unpack()

    assert 0 < (single - double).norm() / single.norm() < 0.02


def test_unpacking_twice_gives_the_same_bits():
    pack = PackedTensor.pack(torch.randn(33, 65), WeightFormat(double_quantize=True))

    assert torch.equal(pack.unpack(), pack.unpack())


def test_tensors_that_do_not_fit_the_shape_are_refused():
    pack = PackedTensor.pack(torch.randn(8, 64), WeightFormat())

    with pytest.raises(ValueError, match="do not fit a weight of shape"):
        PackedTensor(dict(pack.named_buffers()), (8, 65), WeightFormat())


@pytest.mark.parametrize("bad", [{"quant_type": "nf3"}, {"block_size": 48}])
def test_unknown_formats_are_refused(bad):
    with pytest.raises(ValueError, match="use"):
        WeightFormat(**bad)
