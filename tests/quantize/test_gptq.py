"""Weights that are rounded by the inputs of their layers: smaller errors, the same format, the same bytes."""

import copy

import pytest
import torch
from torch import nn

from pqm_plugin.quantize.checkpoint import load_packed, save_packed
from pqm_plugin.quantize.gptq import (
    Grid,
    Moments,
    listen,
    patches,
    round_compensated,
    round_layers,
    search_scales,
    spread,
)
from pqm_plugin.quantize.layers import quantize_layers
from pqm_plugin.quantize.packed import PackedTensor, WeightFormat, read_scales

FORMAT = WeightFormat(double_quantize=True)


def correlated(shape, channels):
    """Inputs as layers have them: many channels, few of them independent, and neighbours alike."""
    generator = torch.Generator().manual_seed(0)
    width = shape[channels]
    given = torch.randn(shape, generator=generator).movedim(channels, -1)
    mixed = given[..., : width // 4] @ torch.randn(width // 4, width, generator=generator) / width**0.5
    mixed = (mixed + 0.1 * given).movedim(-1, channels)
    return mixed if channels == 2 else sum(mixed.roll(step, -1) for step in range(4))


def calibrated(net, names, calls):
    round_layers(net, names, FORMAT, listen(net, names, calls))
    return net


LAYERS = {
    "blocks that span rows": (nn.Linear(176, 88), (1, 600, 176)),
    "narrower than a block": (nn.Linear(33, 50), (1, 600, 33)),
    "odd number of weights": (nn.Linear(13, 7), (1, 600, 13)),
    "pointwise": (nn.Conv1d(80, 33, 1), (1, 80, 600)),
    "kernel": (nn.Conv1d(20, 24, 3, padding=1, stride=2), (1, 20, 1200)),
    "depthwise": (nn.Conv1d(24, 24, 31, padding=15, groups=24), (1, 24, 500)),
    "two dimensions": (nn.Conv2d(6, 20, 3, stride=2), (1, 6, 40, 40)),
}


@pytest.mark.parametrize("case", LAYERS)
def test_the_output_error_is_less_than_seven_tenths_of_that_of_nearest_levels(case):
    layer, shape = LAYERS[case]
    net = nn.Sequential(copy.deepcopy(layer))
    given = correlated(shape, 2 if isinstance(layer, nn.Linear) else 1)
    nearest = copy.deepcopy(net)
    expected = net(given).detach()

    quantize_layers(nearest, ["0"], FORMAT)
    calibrated(net, ["0"], [lambda: net(given)])

    error, error_nearest = ((one(given) - expected).norm() for one in (net, nearest))
    assert error < 0.7 * error_nearest


def build():
    torch.manual_seed(0)
    net = nn.ModuleDict({"embed": nn.Embedding(40, 72), "hidden": nn.Linear(72, 72), "output": nn.Linear(72, 40)})
    net["output"].weight = net["embed"].weight
    return net


def run_on(net, tokens):
    return lambda: net["output"](net["hidden"](net["embed"](tokens)))


NAMES = ["embed", "hidden", "output"]
TOKENS = torch.arange(40)[None]


def test_a_file_of_calibrated_weights_is_loaded_as_any_other(tmp_path):
    net, other = build(), build()
    calibrated(net, NAMES, [run_on(net, TOKENS)])

    save_packed(tmp_path / "model.safetensors", net, "float32")
    load_packed(tmp_path / "model.safetensors", other)

    assert torch.equal(run_on(net, TOKENS)(), run_on(other, TOKENS)())
    assert net["hidden"].packed.weight_format == FORMAT


def test_a_calibrated_file_is_as_large_as_one_of_nearest_levels_and_the_same_each_time(tmp_path):
    files = [tmp_path / name for name in ("one", "two", "nearest")]
    for path in files[:2]:
        net = build()
        save_packed(path, calibrated(net, NAMES, [run_on(net, TOKENS)]))
    nearest = build()
    quantize_layers(nearest, NAMES, FORMAT)
    save_packed(files[2], nearest)

    one, two, rounded = (path.read_bytes() for path in files)
    assert one == two
    assert one != rounded
    assert len(one) == len(rounded)


def test_an_embedding_keeps_the_levels_nearest_to_it_and_goes_on_sharing_its_weight():
    net = build()
    weight = net["embed"].weight.detach().clone()

    calibrated(net, NAMES, [run_on(net, TOKENS)])

    assert net["embed"].packed is net["output"].packed
    assert (net["embed"].weight - weight).norm() < 0.1 * weight.norm()


def test_inputs_that_are_always_zero_leave_nearest_levels():
    net, silent = nn.Sequential(nn.Linear(64, 8)), torch.zeros(1, 5, 64)
    weight = net[0].weight.detach().clone()

    calibrated(net, ["0"], [lambda: net(silent)])

    assert (net[0].weight - weight).norm() < 0.1 * weight.norm()


def test_nothing_to_listen_to_is_an_error():
    with pytest.raises(ValueError, match="no utterance"):
        listen(build(), NAMES, [])


GEOMETRIES = [
    (nn.Linear(12, 7), (2, 5, 12)),
    (nn.Conv1d(12, 8, 1), (2, 12, 9)),
    (nn.Conv1d(12, 8, 3, stride=2, padding=1), (2, 12, 9)),
    (nn.Conv1d(12, 12, 5, padding="same", dilation=2, groups=12), (2, 12, 9)),
    (nn.Conv2d(4, 6, 3, stride=2, groups=2), (2, 4, 9, 11)),
]


@pytest.mark.parametrize(("layer", "shape"), GEOMETRIES, ids=lambda value: type(value).__name__)
def test_the_weight_times_the_patches_is_what_the_layer_computes(layer, shape):
    given = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    rows = patches(layer, given)

    groups, _, length = rows.shape
    product = rows @ layer.weight.reshape(groups, -1, length).mT  # (G, N, O)
    output = layer(given)
    if not isinstance(layer, nn.Linear):
        output = output.flatten(2).mT
    flat = output.reshape(product.shape[1], -1)
    expected = product.permute(1, 0, 2).reshape(flat.shape) + layer.bias
    torch.testing.assert_close(flat, expected)


def test_moments_are_summed_over_calls_and_shared_by_layers_that_hear_the_same():
    torch.manual_seed(0)
    net = nn.ModuleDict({"q": nn.Linear(6, 6), "k": nn.Linear(6, 6), "out": nn.Linear(6, 6)})
    moments = Moments(net, ["q", "k", "out"])
    inputs = [torch.randn(1, 4, 6), torch.randn(1, 3, 6)]

    with torch.no_grad():
        for given in inputs:
            with moments.gathering():
                net["out"](net["q"](given) + net["k"](given))

    rows = torch.cat(inputs, 1)[0]
    torch.testing.assert_close(moments.gram("q"), (rows.mT @ rows)[None])
    assert moments.gram("k") is moments.gram("q")
    assert not torch.equal(moments.gram("out"), moments.gram("q"))


def test_a_layer_that_was_never_called_has_no_moments_and_nothing_is_left_on_the_network():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    moments = Moments(net, ["0", "1"])

    with moments.gathering():
        net[0](torch.ones(1, 3))

    assert moments.gram("1") is None
    assert not net[0]._forward_pre_hooks


def test_a_layer_that_multiplies_nothing_is_refused():
    with pytest.raises(ValueError, match="LayerNorm is neither a linear layer"):
        patches(nn.LayerNorm(3), torch.ones(1, 3))


PLAIN_FORMAT = WeightFormat()


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rounded(weight, scales):
    scale = spread(read_scales(scales), weight.shape, PLAIN_FORMAT.block_size)
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

    searched = rounded(weight, search_scales(weight, PLAIN_FORMAT)) - weight
    largest = PackedTensor.pack(weight, PLAIN_FORMAT).unpack() - weight

    assert searched.norm() < 0.97 * largest.norm()


def test_a_block_of_zeros_stays_zero_and_the_rest_of_its_layer_finite():
    weight = random(3, 64)
    weight[1] = 0

    found = rounded(weight, search_scales(weight, PLAIN_FORMAT))

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
