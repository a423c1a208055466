"""The faster library computes the same products, and only where it is asked to and can."""

import pytest
import torch
from torch import nn

from pqm_plugin.models import products
from pqm_plugin.models.products import FastProducts, fast_products

needs_onednn = pytest.mark.skipif(not products.available(), reason="this processor or torch has no faster library")


@pytest.fixture
def calls(monkeypatch):
    """What is computed by the other library, as (rows, outputs)."""
    made = []
    product = products._product

    def counted(x, weight, bias):
        made.append((x.numel() // x.shape[-1], len(weight)))
        return product(x, weight, bias)

    monkeypatch.setattr(products, "_product", counted)
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
def test_a_convolution_gives_the_same_numbers():
    torch.manual_seed(0)
    layer, x = nn.Conv2d(8, 12, 3, 2), torch.randn(1, 8, 60, 19)

    with torch.no_grad(), FastProducts():
        fast = layer(x)

    assert torch.allclose(fast, layer(x), atol=1e-5)


@needs_onednn
def test_training_is_left_as_it_was(calls):
    layer, x = nn.Linear(48, 20), torch.randn(40, 48)

    with FastProducts():
        layer(x).sum().backward()

    assert calls == []
    assert layer.weight.grad is not None


def test_a_torch_without_the_private_product_goes_on_with_its_public_one(monkeypatch):
    def missing(*_):
        raise AttributeError("_linear_pointwise")

    monkeypatch.setattr(products, "_product", missing)
    products.available.cache_clear()
    layer, x = nn.Linear(48, 20), torch.randn(40, 48)
    try:
        with torch.no_grad(), fast_products():
            found = layer(x)
    finally:
        products.available.cache_clear()

    assert torch.equal(found, layer(x))
