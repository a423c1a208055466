"""A packed file gives back the very model, or says what is wrong with it."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from pqm_plugin.errors import PqmError
from pqm_plugin.quantize.checkpoint import load_packed, save_packed
from pqm_plugin.quantize.layers import quantize_layers
from pqm_plugin.quantize.packed import WeightFormat


def build(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(176, 704), nn.BatchNorm1d(704), nn.Linear(704, 30))


@pytest.fixture
def packed(tmp_path):
    net = build(0).eval()
    net[1].running_mean.copy_(torch.randn(704))
    quantize_layers(net, ["0", "2"], WeightFormat(double_quantize=True))
    save_packed(tmp_path / "model.safetensors", net)
    return net, tmp_path / "model.safetensors"


@pytest.mark.parametrize("mode", ["exact", "small"])
def test_the_model_comes_back_with_the_same_weights_and_statistics(packed, mode):
    net, path = packed
    other = build(1).eval()

    load_packed(path, other, "exact")

    for name in ("0", "2"):
        assert torch.equal(other.get_submodule(name).weight, net.get_submodule(name).weight)
        bias = net.get_submodule(name).bias
        assert torch.equal(other.get_submodule(name).bias, bias.bfloat16().float())
    assert torch.equal(other[1].running_mean, net[1].running_mean)


def test_the_file_is_packed_and_saving_after_evaluation_gives_the_same_bytes(packed, tmp_path):
    net, path = packed

    with torch.no_grad():
        net(torch.randn(3, 176))
    save_packed(tmp_path / "again.safetensors", net)

    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    n_weights = 176 * 704 + 704 * 30
    assert path.stat().st_size < n_weights * 4.2 / 8 + 30_000


def test_a_model_that_is_opened_unpacked_keeps_no_codes_computes_and_is_not_written_again(packed, tmp_path):
    net, path = packed
    other = build(1).eval()

    load_packed(path, other, "exact")

    assert not any("codes" in name or "absmax" in name for name, _ in other.named_buffers())
    assert torch.allclose(other(torch.ones(1, 176)), net(torch.ones(1, 176)), atol=0.1)
    with pytest.raises(ValueError, match="were freed: open the model in mode 'small'"):
        save_packed(tmp_path / "again.safetensors", other)
    assert not (tmp_path / "again.safetensors").exists()


def test_a_model_that_stays_packed_is_written_again_with_the_same_bytes(packed, tmp_path):
    _, path = packed
    other = build(1).eval()

    load_packed(path, other, "small")
    save_packed(tmp_path / "again.safetensors", other)

    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_a_shared_weight_is_stored_once(tmp_path):
    net = nn.ModuleDict({"a": nn.Linear(640, 640, bias=False), "b": nn.Linear(640, 640, bias=False)})
    net["b"].weight = net["a"].weight
    quantize_layers(net, ["a", "b"], WeightFormat())
    path = tmp_path / "shared.safetensors"

    save_packed(path, net)
    other = nn.ModuleDict({"a": nn.Linear(640, 640, bias=False), "b": nn.Linear(640, 640, bias=False)})
    load_packed(path, other)

    assert path.stat().st_size < 640 * 640 * 4.5 / 8 + 2000
    assert torch.equal(other["b"].weight, net["a"].weight)


def test_a_missing_a_truncated_and_a_foreign_file_are_named(packed, tmp_path):
    _, path = packed
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-100])
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(1)}, foreign)

    with pytest.raises(PqmError, match="is missing"):
        load_packed(tmp_path / "none.safetensors", build(1))
    with pytest.raises(PqmError, match=r"cut\.safetensors is damaged"):
        load_packed(cut, build(1))
    with pytest.raises(PqmError, match="format version None"):
        load_packed(foreign, build(1))


@pytest.mark.parametrize(("drop", "add"), [("2.bias", None), ("0.weight.codes", None), (None, "extra.bias")])
def test_a_missing_or_an_unknown_tensor_is_an_error(packed, tmp_path, drop, add):
    _, path = packed
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    if drop:
        del tensors[drop]
    if add:
        tensors[add] = torch.zeros(3)
    save_file(tensors, tmp_path / "changed.safetensors", metadata)

    with pytest.raises(PqmError, match=r"missing"):
        load_packed(tmp_path / "changed.safetensors", build(1))


def test_a_layer_that_the_model_has_not_is_an_error(packed, tmp_path):
    _, path = packed
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    header = json.loads(metadata["pqm"])
    header["layers"]["7"] = header["layers"].pop("2")
    save_file(load_file(path), tmp_path / "renamed.safetensors", {"pqm": json.dumps(header)})

    with pytest.raises(PqmError, match="layer 7 is unknown"):
        load_packed(tmp_path / "renamed.safetensors", build(1))
