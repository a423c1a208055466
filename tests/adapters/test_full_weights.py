"""A speaker's own weights in place of an adapter: on disk as they were, in the network one speaker at a time."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from pqm_plugin.adapters.files import AdapterInfo, load_adapter, read_info, save_adapter
from pqm_plugin.adapters.full_weights import WeightSwapper, save_full_weights, whole_model
from pqm_plugin.adapters.lora import attach, merge, parameter_counts
from pqm_plugin.errors import PqmError

INFO = AdapterInfo("abc", "ada", 45, 45, 3, {"control": "copy"})
X = torch.arange(8.0).reshape(2, 4)


class Net(nn.Module):
    """Two layers that share a weight, and statistics."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        return self.norm(self.second(self.first(x)))


def build():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def folders(tmp_path):
    """Copies of two speakers, whose weights are twice and three times those of the base."""
    made = []
    for factor in (2, 3):
        net = build()
        with torch.no_grad():
            for value in net.parameters():
                value.mul_(factor)
        made.append(tmp_path / f"speaker{factor}")
        save_full_weights(made[-1], whole_model(net), INFO)
    return made


def scaled(factor):
    net = build()
    with torch.no_grad():
        for value in net.parameters():
            value.mul_(factor)
    return net


def bank_of(net, **asked):
    return WeightSwapper(net, "abc", whole_model(net), asked)


@torch.no_grad()
def test_the_network_is_that_of_the_speaker_who_was_asked_for_last_and_of_the_base_without(folders):
    bank = bank_of(net := build(), control="copy")

    assert bank.load(folders[:1]) == folders[:1]
    assert bank.load(folders[:1] * 3) == []
    with bank.rows([folders[1], folders[1]]):
        second = net(X)
        with bank.without():
            base = net(X)
        again = net(X)

    assert torch.equal(second, scaled(3)(X))
    assert torch.equal(base, build()(X))
    assert torch.equal(again, second)


def test_what_is_shared_is_stored_once_and_the_same_weights_give_the_same_bytes(folders, tmp_path):
    tensors = whole_model(build())
    save_full_weights(tmp_path / "again", whole_model(scaled(2)), INFO)

    # One weight of 16, a bias of 4, and of the statistics 4 + 4 + 4 + 4 + 1.
    assert sum(tensor.numel() for tensor in tensors.values()) == 37
    files = [(folder / "weights.safetensors").read_bytes() for folder in (folders[0], tmp_path / "again")]
    assert files[0] == files[1]


def test_other_bases_other_settings_and_damaged_files_are_named(folders):
    net = build()

    with pytest.raises(PqmError, match="made for another base"):
        WeightSwapper(net, "other", whole_model(net), {}).load(folders[:1])
    with pytest.raises(PqmError, match="made with another lora: run stage 5"):
        bank_of(net, lora={"rank": 1}).load(folders[:1])
    with pytest.raises(PqmError, match=r"does not fit this base \(first\.bias and 5 more\)"):
        WeightSwapper(net, "abc", {"first.weight": net.first.weight}, {}).load(folders[:1])
    (folders[0] / "weights.safetensors").write_text("x")
    with pytest.raises(PqmError, match="is damaged"):
        bank_of(net).load(folders[:1])


def test_what_a_toolkit_would_train_is_kept_and_other_adapters_say_nothing_of_it(folders, tmp_path):
    save_full_weights(tmp_path / "toolkit", whole_model(build()), dataclasses.replace(INFO, toolkit_trains=99))

    assert read_info(tmp_path / "toolkit").toolkit_trains == 99
    assert read_info(folders[0]).toolkit_trains == 0
    assert "toolkit_trains" not in (folders[0] / "pqm.json").read_text()


def test_a_merged_adapter_is_in_the_weights_and_all_of_them_are_counted(tmp_path):
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)).eval()
    fresh = copy.deepcopy(net)
    base = [layer.weight.detach().clone() for layer in net]
    model = attach(net, ["0"], rank=1, alpha=3, dropout=0.0)
    layer = model.get_base_model()[0]
    with torch.no_grad():
        layer.lora_A["default"].weight.fill_(1)
        layer.lora_B["default"].weight.fill_(2)
    save_adapter(tmp_path / "sat", model, INFO)

    merge(load_adapter(fresh, tmp_path / "sat", "abc"))

    # alpha / rank times the sum over one rank of 2 · 1.
    torch.testing.assert_close(fresh[0].weight, base[0] + 6)
    assert torch.equal(fresh[1].weight, base[1])
    assert type(fresh[0]) is nn.Linear
    for parameter in fresh.parameters():
        parameter.requires_grad = True
    assert parameter_counts(fresh) == (30, 30)
