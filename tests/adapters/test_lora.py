"""A LoRA trains itself and nothing else, on float and on packed layers alike."""

import pytest
import torch
from torch import nn

from pqm_plugin.adapters.files import AdapterInfo, load_adapter, read_info, save_adapter
from pqm_plugin.adapters.lora import attach, parameter_counts
from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json, write_json
from pqm_plugin.quantize.layers import quantize_layers
from pqm_plugin.quantize.packed import WeightFormat

INFO = AdapterInfo("abc", "ada", 1, 100, 3)


def build(packed=True):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(176, 64), nn.Tanh(), nn.Linear(64, 5))
    if packed:
        quantize_layers(net, ["0", "2"], WeightFormat())
    return net


def trained(net):
    torch.manual_seed(1)
    model = attach(net, ["0"], rank=2, alpha=4, dropout=0.0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_()
    return model


@pytest.mark.parametrize("packed", [False, True])
def test_only_the_adapter_is_trainable_and_the_base_is_counted_as_if_it_were_float(packed):
    model = attach(build(packed), ["0"], rank=2, alpha=4, dropout=0.0)

    trainable, base = parameter_counts(model)

    assert trainable == 2 * (176 + 64)
    assert base == 176 * 64 + 64 + 64 * 5 + 5


def test_a_fresh_adapter_changes_nothing_and_a_trained_one_does_until_it_is_switched_off():
    x = torch.randn(3, 176)
    plain = build()(x)

    fresh = attach(build(), ["0"], rank=2, alpha=4, dropout=0.0).eval()
    model = trained(build()).eval()

    assert torch.equal(fresh(x), plain)
    assert not torch.allclose(model(x), plain)
    with model.disable_adapter():
        assert torch.equal(model(x), plain)


def test_the_output_is_the_frozen_layer_plus_scaled_b_a_x():
    net = build()
    weight, bias = net[0].weight, net[0].bias
    model = trained(net).eval()
    layer = net[0]
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    x = torch.randn(3, 176)

    expected = x @ weight.T + bias + (4 / 2) * (x @ a.T @ b.T)

    assert torch.allclose(layer(x), expected, atol=1e-5)
    assert model.peft_config["default"].r == 2


@pytest.mark.parametrize("targets", [["7"], []])
def test_a_target_that_matches_nothing_is_an_error(targets):
    with pytest.raises(PqmError, match="match nothing"):
        attach(build(), targets, rank=2, alpha=4, dropout=0.0)


def test_an_adapter_comes_back_from_disk_with_the_same_output_and_the_same_bytes(tmp_path):
    x = torch.randn(3, 176)
    model = trained(build()).eval()

    for name in ("one", "two"):
        save_adapter(tmp_path / name, model, INFO)
    again = load_adapter(build(), tmp_path / "one", "abc").eval()

    assert torch.equal(again(x), model(x))
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_switching_puts_another_adapter_in_the_place_of_the_first(tmp_path):
    x = torch.randn(3, 176)
    first = trained(build())
    save_adapter(tmp_path / "first", first, INFO)
    with torch.no_grad():
        first.base_model.model[0].lora_B["default"].weight.mul_(2)
    save_adapter(tmp_path / "second", first, INFO)

    model = load_adapter(build(), tmp_path / "first", "abc")
    model = load_adapter(model, tmp_path / "second", "abc").eval()

    assert torch.equal(model(x), first.eval()(x))


def test_an_adapter_of_another_base_is_refused(tmp_path):
    save_adapter(tmp_path / "ada", trained(build()), INFO)

    with pytest.raises(PqmError, match="made for another base"):
        load_adapter(build(), tmp_path / "ada", "def")


def test_a_damaged_a_missing_and_an_older_adapter_are_named(tmp_path):
    save_adapter(tmp_path / "ada", trained(build()), INFO)
    weights = tmp_path / "ada" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])

    with pytest.raises(PqmError, match="ada is damaged"):
        load_adapter(build(), tmp_path / "ada", "abc")
    with pytest.raises(PqmError, match="holds no adapter"):
        read_info(tmp_path / "bob")
    info = tmp_path / "ada" / "pqm.json"
    write_json(info, read_json(info) | {"format_version": 0})
    with pytest.raises(PqmError, match="another format version"):
        read_info(tmp_path / "ada")


def test_a_folder_of_this_project_loads_in_plain_peft(tmp_path):
    from peft import PeftModel

    x = torch.randn(3, 176)
    model = trained(build(packed=False)).eval()
    save_adapter(tmp_path / "ada", model, INFO)

    plain = PeftModel.from_pretrained(build(packed=False), str(tmp_path / "ada")).eval()

    assert torch.equal(plain(x), model(x))
