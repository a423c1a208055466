"""Weights that are rounded by what their layers hear: smaller errors, the same format, the same bytes."""

import copy

import pytest
import torch
from torch import nn

from pqm_plugin.quantize.calibrate import listen, round_layers
from pqm_plugin.quantize.checkpoint import load_packed, save_packed
from pqm_plugin.quantize.layers import quantize_layers
from pqm_plugin.quantize.packed import WeightFormat

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
