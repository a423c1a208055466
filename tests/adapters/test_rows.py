"""In one batch, each row with its own adapter: the numbers of one adapter at a time."""

import pytest
import torch
from torch import nn

from pqm_plugin.adapters.files import AdapterInfo, save_adapter
from pqm_plugin.adapters.lora import attach
from pqm_plugin.adapters.rows import AdapterBank
from pqm_plugin.errors import PqmError

INFO = AdapterInfo("abc", "ada", 1, 100, 3)


class Net(nn.Module):
    """A convolution over time and two projections."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(6, 8, 3, stride=2, padding=1)
        self.inner = nn.Linear(8, 8)
        self.outer = nn.Linear(8, 5)

    def forward(self, x):
        return self.outer(torch.tanh(self.inner(torch.tanh(self.conv(x)).mT)))


def build():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def folders(tmp_path):
    """Three adapters of different rank and scale."""
    made = []
    for place, rank in enumerate((1, 2, 3)):
        model = attach(build(), ["conv", "inner"], rank=rank, alpha=2 * place + 1, dropout=0.0)
        torch.manual_seed(place)
        with torch.no_grad():
            for name, value in model.named_parameters():
                if "lora_" in name:
                    value.normal_()
        made.append(tmp_path / f"speaker{place}")
        save_adapter(made[-1], model, INFO)
    return made


def one_by_one(folders, x):
    rows = []
    for folder, row in zip(folders, x, strict=True):
        net = build()
        with AdapterBank(net, "abc").rows([folder]):
            rows.append(net(row[None]))
    return torch.cat(rows)


@torch.no_grad()
def test_each_row_is_computed_with_its_own_adapter(folders):
    chosen = [folders[i] for i in (0, 2, 2, 1)]
    x = torch.randn(4, 6, 10)
    bank = AdapterBank(net := build(), "abc")

    with bank.rows(chosen):
        together = net(x)

    assert torch.allclose(together, one_by_one(chosen, x), atol=1e-5)
    assert not torch.allclose(together, build()(x), atol=1e-2)


@torch.no_grad()
def test_in_a_beam_search_each_adapter_has_several_rows(folders):
    x = torch.randn(6, 6, 10)
    bank = AdapterBank(net := build(), "abc")

    with bank.rows(folders):
        together = net(x)

    assert torch.allclose(together, one_by_one([folder for folder in folders for _ in range(2)], x), atol=1e-5)
    with pytest.raises(ValueError, match="7 rows for 3 adapters"), bank.rows(folders):
        net(torch.randn(7, 6, 10))


@torch.no_grad()
def test_without_folders_the_network_is_the_base(folders):
    x = torch.randn(2, 6, 10)
    bank = AdapterBank(net := build(), "abc")

    with bank.rows([]):
        assert torch.equal(net(x), build()(x))


@torch.no_grad()
def test_an_adapter_is_loaded_once_and_the_longest_unused_makes_room(folders):
    bank = AdapterBank(build(), "abc", capacity=2)

    assert bank.load(folders[:2]) == folders[:2]
    assert bank.load(folders[:1]) == []
    assert bank.load(folders[2:]) == folders[2:]
    assert bank.load(folders[:1]) == []
    assert bank.load(folders[1:2]) == folders[1:2]
    assert len(bank.model.peft_config) == 2


def test_an_adapter_of_another_base_is_refused(folders):
    with pytest.raises(PqmError, match="made for another base"):
        AdapterBank(build(), "xyz").load(folders)
