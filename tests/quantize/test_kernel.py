"""bitsandbytes' product in 4 bits reads this project's codes and scales as they lie."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from pqm_plugin.quantize import kernel
from pqm_plugin.quantize.kernel import kernel_product, kernel_takes
from pqm_plugin.quantize.layers import quantize_layers
from pqm_plugin.quantize.packed import PackedTensor, WeightFormat
from tests.pretended import PretendedDevice

FORMATS = [
    WeightFormat(),
    WeightFormat(block_size=32, double_quantize=True),
    WeightFormat("fp4", 128),
    WeightFormat(double_quantize=True),
]
SHAPES = [(40, 256), (7, 128), (1, 384)]


def packed(shape, weight_format, device="cpu"):
    torch.manual_seed(0)
    return PackedTensor.pack(torch.randn(shape), weight_format).to(device)


def compare(shape, weight_format, n_rows, device):
    pack = packed(shape, weight_format, device)
    x, bias = torch.randn(2, n_rows, shape[1]).to(device), torch.randn(shape[0]).to(device)

    found = kernel_product(x, pack, bias)

    expected = functional.linear(x, pack.unpack(), bias)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("weight_format", FORMATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_the_product_is_that_with_the_unpacked_weight(shape, weight_format):
    # Without a GPU bitsandbytes serves the same call by other code, from the same arguments.
    compare(shape, weight_format, 3, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("n_rows", [1, 3, 20])
@pytest.mark.parametrize("weight_format", FORMATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_on_a_gpu_the_product_is_that_with_the_unpacked_weight(shape, weight_format, n_rows):
    pack = packed(shape, weight_format, "cuda")

    assert kernel_takes(torch.ones(1, shape[1], device="cuda"), pack)
    compare(shape, weight_format, n_rows, "cuda")


def test_the_kernel_is_for_a_gpu_without_gradients_and_rows_of_whole_blocks():
    with PretendedDevice():
        there = torch.ones(1, 128, device="cuda")
        pack, odd = packed((40, 128), WeightFormat(), "cuda"), packed((40, 130), WeightFormat(), "cuda")
        conv = packed((8, 4, 64), WeightFormat(), "cuda")

        with torch.no_grad():
            assert kernel_takes(there, pack)
            assert not kernel_takes(there.cpu(), pack.to("cpu"))
            assert not kernel_takes(torch.ones(1, 130, device="cuda"), odd)
            assert not kernel_takes(torch.ones(1, 64, device="cuda"), conv)
        assert not kernel_takes(there, pack)


def test_a_kernel_that_multiplies_wrongly_is_not_used_and_the_log_says_so(monkeypatch, caplog):
    right = kernel.matmul_4bit
    monkeypatch.setattr(kernel, "matmul_4bit", lambda *given, **named: 1.01 * right(*given, **named))
    kernel._agrees.cache_clear()

    with PretendedDevice(), torch.no_grad():
        assert not kernel_takes(torch.ones(1, 128, device="cuda"), packed((40, 128), WeightFormat(), "cuda"))

    kernel._agrees.cache_clear()
    assert "differs by 0.01: weights are unpacked instead" in caplog.text


def test_small_layers_use_it_on_a_gpu_and_unpack_where_it_is_not_for_them(monkeypatch):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(128, 130), nn.Linear(130, 8))
    quantize_layers(net, ["0", "1"], WeightFormat(), "small")
    x = torch.randn(3, 128)
    used = []
    monkeypatch.setattr(
        "pqm_plugin.quantize.layers.kernel_product",
        lambda x, pack, bias: used.append(tuple(pack.shape)) or kernel_product(x, pack, bias),
    )

    with torch.no_grad():
        expected = net(x)
        assert used == []
        with PretendedDevice():
            found = net.to("cuda")(x.to("cuda")).cpu()

    assert used == [(130, 128)]
    assert torch.allclose(found, expected, atol=1e-5)
