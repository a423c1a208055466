"""What a layer hears, as the matrix product that it is."""

import pytest
import torch
from torch import nn

from pqm_plugin.quantize.moments import Moments, patches

LAYERS = [
    (nn.Linear(12, 7), (2, 5, 12)),
    (nn.Conv1d(12, 8, 1), (2, 12, 9)),
    (nn.Conv1d(12, 8, 3, stride=2, padding=1), (2, 12, 9)),
    (nn.Conv1d(12, 12, 5, padding="same", dilation=2, groups=12), (2, 12, 9)),
    (nn.Conv2d(4, 6, 3, stride=2, groups=2), (2, 4, 9, 11)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda value: type(value).__name__)
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
    with pytest.raises(ValueError, match="LayerNorm is no linear layer"):
        patches(nn.LayerNorm(3), torch.ones(1, 3))
