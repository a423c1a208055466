"""The faster library computes the same products, and only where it is asked to and can."""

import numpy as np
import pytest
import torch
from torch import nn

from pqm_plugin.adapters.options import LoraOptions
from pqm_plugin.adapters.train import set_training_mode
from pqm_plugin.engine.learn import attach_lora
from pqm_plugin.models import networks
from pqm_plugin.models.networks import FastProducts, fast_products
from pqm_plugin.models.replay import training_loss

needs_onednn = pytest.mark.skipif(not networks.available(), reason="this processor or torch has no faster library")


@pytest.fixture
def calls(monkeypatch):
    """What is computed by the other library, as (rows, outputs)."""
    made = []
    product = networks._product

    def counted(x, weight, bias):
        made.append((x.numel() // x.shape[-1], len(weight)))
        return product(x, weight, bias)

    monkeypatch.setattr(networks, "_product", counted)
    return made


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_gives_the_same_numbers(calls, bias):
    torch.manual_seed(0)
    layer, x = nn.Linear(48, 20, bias=bias), torch.randn(2, 40, 48)

    with torch.no_grad(), FastProducts():
        fast = layer(x)
        few = layer(x[:1, :5])

    assert calls == [(80, 20)]
    assert torch.allclose(fast, layer(x), atol=1e-5)
    assert torch.equal(few, layer(x[:1, :5]))


@needs_onednn
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(8, 12, 3, 2), (2, 8, 60, 19)),
        (nn.Conv2d(1, 12, 3, 2, padding=1), (2, 1, 60, 19)),
        (nn.Conv2d(8, 12, 3), (8, 60, 19)),
        (nn.Conv1d(8, 12, 1), (2, 8, 50)),
        (nn.Conv1d(8, 12, 1, stride=2), (2, 8, 50)),
        (nn.Conv1d(8, 12, 1, padding=1), (2, 8, 50)),
        (nn.Conv1d(8, 8, 7, padding=3, groups=8), (2, 8, 50)),
        (nn.Conv1d(1, 4, 7, padding=3), (2, 1, 50)),
        (nn.Conv1d(8, 12, 5, stride=2, dilation=2, bias=False), (2, 8, 50)),
        (nn.Conv1d(8, 12, 5, padding="same"), (2, 8, 50)),
        (nn.Conv1d(8, 12, 5), (8, 50)),
        (nn.BatchNorm1d(8), (2, 8, 50)),
        (nn.BatchNorm1d(8), (50, 8)),
    ],
    ids=str,
)
def test_a_layer_gives_the_same_numbers_in_either_layout(layer, shape):
    torch.manual_seed(0)
    x = torch.randn(*shape)
    layer = layer.eval()
    if isinstance(layer, nn.BatchNorm1d):
        nn.init.normal_(layer.running_mean)
        nn.init.uniform_(layer.running_var, 0.5, 2)
    turned = x.movedim(1, -1).contiguous().movedim(-1, 1)

    with torch.no_grad(), FastProducts():
        fast, fast_turned = layer(x), layer(turned)

    assert torch.allclose(fast, layer(x), atol=1e-5)
    assert torch.allclose(fast_turned, layer(x), atol=1e-5)


@needs_onednn
def test_a_pointwise_convolution_is_a_product_and_what_follows_keeps_its_layout(calls):
    torch.manual_seed(0)
    pointwise, depthwise = nn.Conv1d(8, 16, 1), nn.Conv1d(8, 8, 5, padding=2, groups=8)
    norm, x = nn.BatchNorm1d(8).eval(), torch.randn(2, 50, 8)

    with torch.no_grad(), FastProducts():
        found = norm(depthwise(nn.functional.glu(pointwise(x.mT), dim=1)))

    assert calls == [(100, 16)]
    assert found.mT.is_contiguous()
    assert torch.allclose(found, norm(depthwise(nn.functional.glu(pointwise(x.mT), dim=1))), atol=1e-5)


@needs_onednn
def test_a_weight_that_learns_is_left_to_torch(calls):
    layer, x = nn.Linear(48, 20), torch.randn(40, 48)

    with FastProducts():
        layer(x).sum().backward()

    assert calls == []
    assert layer.weight.grad is not None


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
def test_through_a_frozen_weight_passes_the_same_gradient(calls, bias):
    torch.manual_seed(0)
    layer = nn.Linear(48, 20, bias=bias).requires_grad_(False)
    x, plain_x = (torch.randn(2, 40, 48, generator=torch.Generator().manual_seed(1), requires_grad=True) for _ in "ab")

    with FastProducts():
        layer(x).square().sum().backward()
    layer(plain_x).square().sum().backward()

    assert calls == [(80, 20), (80, 48)]
    assert torch.allclose(x.grad, plain_x.grad, atol=1e-4)


@needs_onednn
@pytest.mark.parametrize(
    "layer", [nn.Conv1d(8, 12, 1), nn.Conv1d(8, 8, 7, padding=3, groups=8), nn.BatchNorm1d(8)], ids=str
)
def test_through_a_frozen_convolution_passes_the_same_gradient(layer):
    layer = layer.eval().requires_grad_(False)
    x, plain_x = (torch.randn(2, 8, 50, generator=torch.Generator().manual_seed(1), requires_grad=True) for _ in "ab")

    with FastProducts():
        layer(x).square().sum().backward()
    layer(plain_x).square().sum().backward()

    assert torch.allclose(x.grad, plain_x.grad, atol=1e-4)


@needs_onednn
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_leaves_out_as_much_scales_the_rest_and_is_decided_by_the_seed(p):
    x = torch.ones(300, 101, requires_grad=True)

    def dropped():
        torch.manual_seed(3)
        with FastProducts():
            return torch.nn.functional.dropout(x, p, training=True)

    found = dropped()
    found.sum().backward()

    assert set(found.detach().unique().tolist()) == {0.0, torch.tensor(1 / (1 - p)).item()}
    assert float((found == 0).float().mean()) == pytest.approx(p, abs=0.01)
    assert torch.equal(x.grad, found)
    assert torch.equal(dropped(), found)
    # No row, nor column, is like another.
    assert len({tuple(row) for row in found.tolist()}) == 300
    assert len({tuple(column) for column in found.T.tolist()}) == 101


@needs_onednn
def test_dropout_that_is_not_at_work_leaves_everything_as_it_is():
    x = torch.randn(40, 8)

    with FastProducts():
        assert torch.nn.functional.dropout(x, 0.5, training=False) is x
        assert torch.nn.functional.dropout(x, 1.0, training=True).abs().sum() == 0


def test_a_torch_without_the_private_product_goes_on_with_its_public_one(monkeypatch):
    def missing(*_):
        raise AttributeError("_linear_pointwise")

    monkeypatch.setattr(networks, "_product", missing)
    networks.available.cache_clear()
    layer, x = nn.Linear(48, 20), torch.randn(40, 48)
    try:
        with torch.no_grad(), fast_products():
            found = layer(x)
    finally:
        networks.available.cache_clear()

    assert torch.equal(found, layer(x))


def masks_of(recognizer, examples):
    """What dropout left out in a step of training, the random state after it, and its gradients."""
    masks = []
    network = recognizer.network
    dropouts = [module for module in network.modules() if isinstance(module, nn.Dropout) and module.training]
    hooks = [module.register_forward_hook(lambda _, __, found: masks.append(found == 0)) for module in dropouts]
    torch.manual_seed(5)
    network.zero_grad()
    loss = training_loss(recognizer, [one for one, _ in examples], [two for _, two in examples])
    loss.total.backward()
    for hook in hooks:
        hook.remove()
    gradients = {name: value.grad for name, value in network.named_parameters() if value.grad is not None}
    return masks, torch.get_rng_state(), gradients


@pytest.mark.parametrize("network_dropout", [False, True])
def test_the_same_seed_drops_the_same_on_a_processor_with_and_without_the_faster_products(
    recognizer, network_dropout, monkeypatch
):
    model = attach_lora(recognizer, LoraOptions(rank=2, dropout=0.3), seed=1)
    # B is zero at the start, and no gradient would pass to A.
    for name, value in model.named_parameters():
        if "lora_B" in name:
            nn.init.constant_(value, 0.1)
    set_training_mode(model, network_dropout=network_dropout)
    noise = np.random.default_rng(0)
    clips = [noise.normal(0, 0.1, 16000 - 1000 * place).astype(np.float32) for place in range(2)]
    examples = [(recognizer.features(clip), recognizer.token_ids("GO ON")) for clip in clips]

    # The trial of faster layers, which is made once, calls dropout too.
    masks_of(recognizer, examples)
    monkeypatch.setattr(networks, "available", lambda: True)
    masks, state, gradients = masks_of(recognizer, examples)
    monkeypatch.setattr(networks, "available", lambda: False)
    others, other_state, other_gradients = masks_of(recognizer, examples)

    assert len(masks) == len(others) > 0 and any(mask.any() for mask in masks)
    assert all(torch.equal(mask, other) for mask, other in zip(masks, others, strict=True))
    assert torch.equal(state, other_state)
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, other_gradients[name], rtol=1e-3, atol=1e-4), name
