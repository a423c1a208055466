"""Packed layers compute what the float layer with the dequantised weight computes, in training and out of it."""

import copy

import pytest
import torch
from torch import nn

from pqm_plugin.quantize import layers
from pqm_plugin.quantize.layers import packed_layers, quantize_layers
from pqm_plugin.quantize.packed import WeightFormat


class Net(nn.Module):
    """One layer of each kind that is quantised, with widths that no block size divides."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 176)
        self.conv = nn.Conv1d(176, 88, 3, groups=8, padding=1)
        self.pointwise = nn.Conv1d(88, 40, 1)
        self.linear = nn.Linear(40, 5000, bias=False)

    def forward(self, tokens):
        hidden = self.pointwise(self.conv(self.embed(tokens).transpose(1, 2)))
        return self.linear(hidden.transpose(1, 2))


NAMES = ["embed", "conv", "pointwise", "linear"]
TOKENS = torch.tensor([[1, 2, 3, 10]])


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


@pytest.mark.parametrize("mode", ["exact", "small"])
def test_the_output_is_that_of_the_dequantised_float_layers(net, mode):
    floats = copy.deepcopy(net)
    quantize_layers(net, NAMES, WeightFormat(), mode)
    for name in NAMES:
        floats.get_submodule(name).weight.data = net.get_submodule(name).weight.clone()

    assert torch.equal(net(TOKENS), floats(TOKENS))


@pytest.mark.parametrize("mode", ["exact", "small"])
def test_training_after_evaluation_gives_the_same_gradients_as_before(net, mode):
    quantize_layers(net, NAMES, WeightFormat(), mode)

    def gradient():
        net.train()
        net.zero_grad()
        net(TOKENS).square().sum().backward()
        return net.conv.bias.grad.clone()

    before = gradient()
    net.eval()
    with torch.no_grad():
        evaluated = net(TOKENS)
    after = gradient()

    assert torch.equal(before, after)
    assert before.abs().sum() > 0
    assert torch.equal(evaluated, net(TOKENS))


def test_small_mode_keeps_no_float_copy_of_the_weights(net):
    quantize_layers(net, NAMES, WeightFormat(), "small")

    floats = sum(b.numel() * b.element_size() for n, b in net.named_buffers() if n.endswith("expanded"))
    assert floats == 0
    assert not any(name.endswith("weight") for name, _ in net.named_parameters())


def test_small_mode_unpacks_neither_all_of_an_embedding_nor_all_of_a_large_layer_at_once(net, monkeypatch):
    floats = copy.deepcopy(net)
    quantize_layers(net, NAMES, WeightFormat(double_quantize=True), "small")
    for name in NAMES:
        floats.get_submodule(name).weight.data = net.get_submodule(name).weight.clone()
    monkeypatch.setattr(layers, "_PART_BYTES", 400_000)
    largest = []
    memory = layers._memory
    monkeypatch.setattr(layers, "_memory", lambda n: largest.append(n) or memory(n))

    with torch.no_grad():
        found = net(TOKENS)

    assert torch.allclose(found, floats(TOKENS), atol=1e-6)
    assert 4 * max(largest) <= 400_000
    assert net.embed.packed.shape.numel() not in largest


def test_a_subclass_with_a_forward_of_its_own_keeps_it():
    class Doubled(nn.Linear):
        def forward(self, input):
            return 2 * super().forward(input)

    net = nn.Sequential(Doubled(64, 8))
    quantize_layers(net, ["0"], WeightFormat(), "small")
    x = torch.randn(3, 64)

    assert torch.equal(net(x), 2 * nn.functional.linear(x, net[0].weight, net[0].bias))


def test_a_packed_layer_is_still_an_instance_of_its_own_class(net):
    quantize_layers(net, NAMES, WeightFormat())

    assert isinstance(net.linear, nn.Linear)
    assert isinstance(net.conv, nn.Conv1d)
    assert sorted(packed_layers(net)) == sorted(NAMES)


def test_layers_that_share_a_weight_go_on_sharing_it():
    net = nn.ModuleDict({"embed": nn.Embedding(10, 64), "output": nn.Linear(64, 10, bias=False)})
    net["output"].weight = net["embed"].weight

    quantize_layers(net, ["embed", "output"], WeightFormat())

    assert net["embed"].packed is net["output"].packed


def test_a_name_without_weight_and_an_empty_list_are_errors(net):
    with pytest.raises(ValueError, match="no layer to quantize"):
        quantize_layers(net, [], WeightFormat())
    quantize_layers(net, ["linear"], WeightFormat())
    with pytest.raises(ValueError, match="no float weight"):
        quantize_layers(net, ["linear"], WeightFormat())


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX512", reason="that code needs AVX-512")
def test_the_library_hazards_that_this_package_steps_around_are_still_there():
    """When this fails, bitsandbytes dequantises odd shapes rightly on CPU, and `PackedTensor` may be made simpler."""
    from bitsandbytes import functional as bnb

    weight = torch.randn(704, 176, generator=torch.Generator().manual_seed(0))

    codes, state = bnb.quantize_4bit(weight, quant_type="nf4", blocksize=64)
    error = (bnb.dequantize_4bit(codes, state) - weight).norm() / weight.norm()

    assert error > 0.2
