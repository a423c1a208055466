"""Rows of several speakers in one batch: each gets the output and the gradient that its own adapter alone gives."""

import pytest
import torch

from pqm_plugin.adapters.leaves import DOWN, UP, LearningRows
from pqm_plugin.adapters.lora import attach, freeze
from pqm_plugin.errors import PqmError
from tests.adapters.net import Net


def build(dropout=0.0):
    torch.manual_seed(0)
    net = Net().eval()
    return net, attach(net, ["conv", "inner", "outer"], rank=2, alpha=6, dropout=dropout).eval()


def speakers(rows, n):
    torch.manual_seed(1)
    found = [rows.leaves() for _ in range(n)]
    with torch.no_grad():
        for leaves in found:
            for value in leaves.values():
                value.normal_(std=0.3)
    return found


def gradients(model):
    """Of the adapter in the network, as a speaker's own are laid out."""
    named = [(name, value.grad.flatten()) for name, value in model.named_parameters() if value.requires_grad]
    return {key: torch.cat([grad for name, grad in named if kind in name]) for key, kind in ((DOWN, "A"), (UP, "B"))}


def test_output_and_gradient_of_each_speaker_are_those_of_its_adapter_alone():
    net, model = build()
    rows = LearningRows(model)
    [ada, bob, eve] = speakers(rows, 3)
    x = torch.randn(7, 6, 10)

    with rows.rows([ada, bob, eve], [2, 1, 4]):
        together = net(x)
        together.square().sum().backward()

    for leaves, batch, found in zip((ada, bob, eve), x.split([2, 1, 4]), together.split([2, 1, 4]), strict=True):
        rows.put(leaves)
        model.zero_grad()
        alone = model(batch)
        alone.square().sum().backward()
        assert torch.allclose(found, alone, atol=1e-5)
        for name, expected in gradients(model).items():
            assert torch.allclose(leaves[name].grad, expected, rtol=1e-4, atol=1e-4)


def test_a_loss_of_some_rows_is_no_matter_of_the_others():
    net, model = build()
    rows = LearningRows(model)
    [ada, bob] = speakers(rows, 2)

    with rows.rows([ada, bob], [1, 2]):
        net(torch.randn(3, 6, 10))[:1].sum().backward()

    assert ada[UP].grad.any()
    assert not bob[UP].grad.any()
    assert all(value.grad is None for value in model.parameters())


def test_a_speaker_starts_from_the_adapter_in_the_network_and_one_is_put_back():
    net, model = build()
    rows = LearningRows(model)
    x = torch.randn(2, 6, 10)
    [ada] = speakers(rows, 1)
    rows.put(ada)
    plain = model(x)

    copy = rows.leaves()
    with rows.rows([copy], [2]):
        found = net(x)

    assert torch.allclose(found, plain, atol=1e-5)
    assert all(torch.equal(copy[name], ada[name]) for name in (DOWN, UP))
    assert torch.equal(model(x), plain)


def test_layers_that_do_not_learn_keep_the_adapter_of_the_network():
    net, model = build()
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
    with upper.rows([upper.leaves()], [2]):
        found = net(x)

    assert len(upper.leaves()[UP]) == 2 * 8 + 2 * 5
    assert torch.allclose(found, model(x), atol=1e-5)


def test_dropout_of_the_adapter_is_drawn_while_it_learns():
    net, model = build(dropout=0.5)
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
    net, model = build()
    rows = LearningRows(model)

    with (
        rows.rows(speakers(rows, 2), [1, 2]),
        pytest.raises(PqmError, match=r"conv hears 2 of 3 rows at once.*leave it out of lora\.targets"),
    ):
        net(torch.randn(2, 6, 10))
    assert net(torch.randn(2, 6, 10)).shape == (2, 5, 5)
    net.inner.base_layer.bias.requires_grad = True
    with pytest.raises(PqmError, match="inner.base_layer.bias learns, which speakers cannot do in one batch"):
        LearningRows(model)
    model.requires_grad_(False)
    with pytest.raises(PqmError, match="nothing learns"):
        LearningRows(model)
