"""Adapters by row: each row of a batch gets the output and the gradient that its own adapter alone gives."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pqm_plugin.adapters.bank import DOWN, UP, AdapterBank, LearningRows
from pqm_plugin.adapters.files import AdapterInfo, load_adapter, save_adapter
from pqm_plugin.adapters.lora import attach, freeze
from pqm_plugin.errors import PqmError
from tests.adapters.net import Net

INFO = AdapterInfo("abc", "ada", 1, 100, 3)


def build():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def folders(tmp_path):
    """Three adapters of different rank and scale."""
    return [
        saved(tmp_path / f"speaker{place}", ["conv", "inner"], rank, 2 * place + 1, place)
        for place, rank in enumerate((1, 2, 3))
    ]


def saved(folder, layers, rank, alpha, seed):
    model = attach(build(), layers, rank=rank, alpha=alpha, dropout=0.0)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_" in name:
                value.normal_()
    save_adapter(folder, model, INFO)
    return folder


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
@pytest.mark.parametrize("places", [(None, 0, None, 2), (1, None), (None, None), (None, 1)])
def test_rows_without_an_adapter_are_the_bases_beside_rows_with_one(places, folders):
    x = torch.randn(len(places), 6, 10)
    bank = AdapterBank(net := build(), "abc")

    with bank.rows([None if place is None else folders[place] for place in places]):
        together = net(x)

    alone = [
        build()(row[None]) if p is None else one_by_one([folders[p]], row[None])
        for p, row in zip(places, x, strict=True)
    ]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


@torch.no_grad()
def test_an_adapter_that_another_took_the_place_of_is_read_anew_and_one_that_is_gone_stays(folders):
    bank = AdapterBank(build(), "abc")
    first = bank.load(folders)
    shutil.rmtree(folders[0])
    shutil.rmtree(folders[1])

    shutil.copytree(saved(folders[1].parent / "new", ["conv", "inner"], 3, 1, 9), folders[1])

    assert first == folders and bank.load(folders) == [folders[1]]
    assert bank.held_bytes == sum(bank._held[folder].size_bytes for folder in folders)


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
def test_an_adapter_is_loaded_once_and_the_longest_unused_makes_room_by_its_bytes(folders):
    sizes = [4 * (rank * (6 * 3 + 8) + rank * (8 + 8)) for rank in (1, 2, 3)]
    bank = AdapterBank(build(), "abc", limit_bytes=sizes[0] + sizes[2])

    assert bank.load(folders[:2]) == folders[:2]
    assert bank.held_bytes == sizes[0] + sizes[1]
    assert bank.load(folders[:1]) == []
    assert bank.load(folders[2:]) == folders[2:]
    assert (len(bank), bank.held_bytes) == (2, sizes[0] + sizes[2])
    assert bank.load(folders[:1]) == []
    assert bank.load(folders[1:2]) == folders[1:2]
    assert (len(bank), bank.held_bytes) == (2, sizes[0] + sizes[1])


def test_the_whole_network_is_frozen_with_the_first_adapter_and_not_walked_through_again(folders):
    network = build()
    walks = []
    network.requires_grad_ = lambda wanted: walks.append(wanted) or nn.Module.requires_grad_(network, wanted)
    bank = AdapterBank(network, "abc")

    bank.load(folders[:1])
    frozen = not any(parameter.requires_grad for parameter in network.parameters())
    bank.load(folders)

    assert frozen
    assert walks == [False]


@torch.no_grad()
def test_one_batch_may_need_more_than_the_limit(folders):
    x = torch.randn(3, 6, 10)
    bank = AdapterBank(net := build(), "abc", limit_bytes=1)

    with bank.rows(folders):
        together = net(x)

    assert torch.allclose(together, one_by_one(folders, x), atol=1e-5)
    assert len(bank) == 3
    bank.load(folders[:1])
    assert len(bank) == 1


@torch.no_grad()
def test_one_adapter_gives_the_bits_that_peft_gives(folders):
    x = torch.randn(2, 6, 10)
    bank = AdapterBank(net := build(), "abc")
    peft = load_adapter(build(), folders[2], "abc").eval()

    with bank.rows([folders[2]] * 2):
        ours = net(x)

    assert torch.equal(ours, peft(x))


@torch.no_grad()
def test_adapters_of_other_layers_share_a_batch(folders, tmp_path):
    other = saved(tmp_path / "other", ["outer"], rank=2, alpha=4, seed=9)
    chosen = [folders[0], other, folders[1]]
    x = torch.randn(3, 6, 10)
    bank = AdapterBank(net := build(), "abc")

    with bank.rows(chosen):
        together = net(x)

    assert torch.allclose(together, one_by_one(chosen, x), atol=1e-5)


@torch.no_grad()
def test_adapters_of_one_shape_share_a_batch(tmp_path):
    same = [saved(tmp_path / str(seed), ["conv", "inner"], 2, alpha, seed) for seed, alpha in ((1, 3), (2, 5))]
    x = torch.randn(4, 6, 10)
    bank = AdapterBank(net := build(), "abc")

    with bank.rows(same):
        together = net(x)
    with bank.rows(same):
        again = net(x)

    assert torch.allclose(together, one_by_one([same[0], same[0], same[1], same[1]], x), atol=1e-5)
    assert torch.equal(together, again)


@torch.no_grad()
def test_the_base_computes_within_a_block_without_adapters_and_after_every_block(folders):
    x = torch.randn(1, 6, 10)
    bank = AdapterBank(net := build(), "abc")
    plain = net(x)

    with bank.rows(folders[:1]):
        adapted = net(x)
        with bank.rows([]):
            within = net(x)
        again = net(x)

    assert torch.equal(within, plain)
    assert torch.equal(adapted, again)
    assert not torch.equal(adapted, plain)
    assert torch.equal(net(x), plain)


@torch.no_grad()
def test_a_network_of_another_shape_refuses_an_adapter_and_computes_as_before(folders):
    net = build()
    net.inner = nn.Linear(8, 7)
    net.outer = nn.Linear(7, 5)
    plain = net(x := torch.randn(1, 6, 10))
    bank = AdapterBank(net, "abc")

    with pytest.raises(PqmError, match=r"inner has a weight of \(7, 8\), its factors give \(8, 8\)"):
        bank.load(folders[:1])

    assert torch.equal(net(x), plain)
    assert (len(bank), bank.held_bytes) == (0, 0)


def test_a_layer_that_the_network_has_not_is_named(tmp_path):
    folder = saved(tmp_path / "ada", ["outer"], 1, 1, 0)
    net = build()
    del net.outer

    with pytest.raises(PqmError, match="targets layer 'outer', which this model does not have"):
        AdapterBank(net, "abc").load([folder])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda tensors: tensors.pop("base_model.model.inner.lora_A.weight"), "lacks a factor of a layer"),
        (
            lambda tensors: tensors.update(
                {name.replace("inner", "outer"): value.clone() for name, value in tensors.items() if "inner" in name}
            ),
            "holds 'outer', which is none of its target_modules",
        ),
        (
            lambda tensors: tensors.update({"base_model.model.inner.lora_B.weight": torch.zeros(0, 1)}),
            "holds a factor without values",
        ),
    ],
)
def test_weights_that_are_not_what_the_configuration_says_are_refused(folders, change, reason):
    path = folders[0] / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)

    with pytest.raises(PqmError, match=reason):
        AdapterBank(build(), "abc").load(folders[:1])


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_factors_in_half_precision_are_read_as_the_float32_that_they_stand_for(folders, dtype):
    path = folders[1] / "adapter_model.safetensors"
    halves = {name: value.to(dtype) for name, value in load_file(path).items()}
    x = torch.randn(2, 6, 10)

    found = []
    for tensors in (halves, {name: value.float() for name, value in halves.items()}):
        save_file(tensors, path)
        with AdapterBank(net := build(), "abc").rows([folders[1]] * 2):
            found.append(net(x))

    assert torch.equal(*found)


def test_an_adapter_of_another_base_is_refused(folders):
    with pytest.raises(PqmError, match="made for another base"):
        AdapterBank(build(), "xyz").load(folders)


def adapted(dropout=0.0):
    torch.manual_seed(0)
    net = Net().eval()
    return net, attach(net, ["conv", "inner", "outer"], rank=2, alpha=6, dropout=dropout).eval()


def speakers(rows, n):
    torch.manual_seed(1)
    found = [rows.parameters() for _ in range(n)]
    with torch.no_grad():
        for parameters in found:
            for value in parameters.values():
                value.normal_(std=0.3)
    return found


def gradients(model):
    """Of the adapter in the network, as a speaker's own are laid out."""
    named = [(name, value.grad.flatten()) for name, value in model.named_parameters() if value.requires_grad]
    return {key: torch.cat([grad for name, grad in named if kind in name]) for key, kind in ((DOWN, "A"), (UP, "B"))}


def test_output_and_gradient_of_each_speaker_are_those_of_its_adapter_alone():
    net, model = adapted()
    rows = LearningRows(model)
    [ada, bob, eve] = speakers(rows, 3)
    x = torch.randn(7, 6, 10)

    with rows.rows([ada, bob, eve], [2, 1, 4]):
        together = net(x)
        together.square().sum().backward()

    for parameters, batch, found in zip((ada, bob, eve), x.split([2, 1, 4]), together.split([2, 1, 4]), strict=True):
        rows.put(parameters)
        model.zero_grad()
        alone = model(batch)
        alone.square().sum().backward()
        assert torch.allclose(found, alone, atol=1e-5)
        for name, expected in gradients(model).items():
            assert torch.allclose(parameters[name].grad, expected, rtol=1e-4, atol=1e-4)


def test_a_loss_of_some_rows_is_no_matter_of_the_others():
    net, model = adapted()
    rows = LearningRows(model)
    [ada, bob] = speakers(rows, 2)

    with rows.rows([ada, bob], [1, 2]):
        net(torch.randn(3, 6, 10))[:1].sum().backward()

    assert ada[UP].grad.any()
    assert not bob[UP].grad.any()
    assert all(value.grad is None for value in model.parameters())


def test_a_speaker_starts_from_the_adapter_in_the_network_and_one_is_put_back():
    net, model = adapted()
    rows = LearningRows(model)
    x = torch.randn(2, 6, 10)
    [ada] = speakers(rows, 1)
    rows.put(ada)
    plain = model(x)

    copy = rows.parameters()
    with rows.rows([copy], [2]):
        found = net(x)

    assert torch.allclose(found, plain, atol=1e-5)
    assert all(torch.equal(copy[name], ada[name]) for name in (DOWN, UP))
    assert torch.equal(model(x), plain)


def test_layers_that_do_not_learn_keep_the_adapter_of_the_network():
    net, model = adapted()
    rows = LearningRows(model)
    rows.put(*speakers(rows, 1))
    freeze(model, ["conv"])
    with torch.no_grad():
        model.base_model.model.inner.lora_A["default"].weight.requires_grad_()
        for name, value in model.named_parameters():
            if "conv" in name and "lora_B" in name:
                value.fill_(0.5)

    upper = LearningRows(model)
    x = torch.randn(2, 6, 10)
    with upper.rows([upper.parameters()], [2]):
        found = net(x)

    assert len(upper.parameters()[UP]) == 2 * 8 + 2 * 5
    assert torch.allclose(found, model(x), atol=1e-5)


def test_dropout_of_the_adapter_is_drawn_while_it_learns():
    net, model = adapted(dropout=0.5)
    rows = LearningRows(model)
    found = speakers(rows, 2)
    x = torch.randn(2, 6, 10)

    def compute(seed):
        torch.manual_seed(seed)
        with rows.rows(found, [1, 1]):
            return net(x)

    still = compute(1), compute(2)
    model.train()

    assert torch.equal(*still)
    assert torch.equal(compute(1), compute(1))
    assert not torch.equal(compute(1), compute(2))


def test_a_layer_that_sees_some_rows_alone_and_a_weight_that_learns_beside_are_refused():
    net, model = adapted()
    rows = LearningRows(model)

    with (
        rows.rows(speakers(rows, 2), [1, 2]),
        pytest.raises(PqmError, match=r"conv gets 2 of 3 rows at a time.*leave it out of lora\.targets"),
    ):
        net(torch.randn(2, 6, 10))
    assert net(torch.randn(2, 6, 10)).shape == (2, 5, 5)
    net.inner.base_layer.bias.requires_grad = True
    with pytest.raises(PqmError, match="inner.base_layer.bias is trained, which several speakers cannot do"):
        LearningRows(model)
    model.requires_grad_(False)
    with pytest.raises(PqmError, match="nothing is trained"):
        LearningRows(model)
