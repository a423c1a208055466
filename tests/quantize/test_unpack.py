"""Packed weights used without being kept unpacked: in reused memory, by rows, in the GPU kernel."""

import threading

import pytest
import torch
from torch import nn
from torch.nn import functional

from pqm_plugin.quantize import layers
from pqm_plugin.quantize.layers import (
    kernel_product,
    kernel_takes,
    quantize_layers,
    unpack_for_now,
    unpack_in_parts,
    unpack_rows,
)
from pqm_plugin.quantize.packed import PackedTensor, WeightFormat
from tests.pretended import PretendedDevice

KERNEL_FORMATS = [
    WeightFormat(),
    WeightFormat(block_size=32, double_quantize=True),
    WeightFormat("fp4", 128),
    WeightFormat(double_quantize=True),
]
SHAPES = [(40, 256), (7, 128), (1, 384)]


def pack_for_gpu(shape, weight_format, device="cpu"):
    torch.manual_seed(0)
    return PackedTensor.pack(torch.randn(shape), weight_format).to(device)


def compare(shape, weight_format, n_rows, device):
    pack = pack_for_gpu(shape, weight_format, device)
    x, bias = torch.randn(2, n_rows, shape[1]).to(device), torch.randn(shape[0]).to(device)

    found = kernel_product(x, pack, bias)

    expected = functional.linear(x, pack.unpack(), bias)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("weight_format", KERNEL_FORMATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_the_product_is_that_with_the_unpacked_weight(shape, weight_format):
    # Without a GPU bitsandbytes serves the same call by other code, from the same arguments.
    compare(shape, weight_format, 3, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("n_rows", [1, 3, 20])
@pytest.mark.parametrize("weight_format", KERNEL_FORMATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_on_a_gpu_the_product_is_that_with_the_unpacked_weight(shape, weight_format, n_rows):
    pack = pack_for_gpu(shape, weight_format, "cuda")

    assert kernel_takes(torch.ones(1, shape[1], device="cuda"), pack)
    compare(shape, weight_format, n_rows, "cuda")


def test_the_kernel_is_for_a_gpu_without_gradients_and_rows_of_whole_blocks():
    with PretendedDevice():
        there = torch.ones(1, 128, device="cuda")
        pack, odd = (
            pack_for_gpu((40, 128), WeightFormat(), "cuda"),
            pack_for_gpu((40, 130), WeightFormat(), "cuda"),
        )
        conv = pack_for_gpu((8, 4, 64), WeightFormat(), "cuda")

        with torch.no_grad():
            assert kernel_takes(there, pack)
            assert not kernel_takes(there.cpu(), pack.to("cpu"))
            assert not kernel_takes(torch.ones(1, 130, device="cuda"), odd)
            assert not kernel_takes(torch.ones(1, 64, device="cuda"), conv)
        assert not kernel_takes(there, pack)


def test_a_kernel_that_multiplies_wrongly_is_not_used_and_the_log_says_so(monkeypatch, caplog):
    right = layers.matmul_4bit
    monkeypatch.setattr(layers, "matmul_4bit", lambda *given, **named: 1.01 * right(*given, **named))
    layers._agrees.cache_clear()

    with PretendedDevice(), torch.no_grad():
        assert not kernel_takes(torch.ones(1, 128, device="cuda"), pack_for_gpu((40, 128), WeightFormat(), "cuda"))

    layers._agrees.cache_clear()
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

    # The kernel is tried on a matrix of (40, 128) first, once in a process.
    assert [shape for shape in used if shape != (40, 128)] == [(130, 128)]
    assert torch.allclose(found, expected, atol=1e-5)


ROW_FORMATS = [WeightFormat(), WeightFormat(double_quantize=True), WeightFormat("fp4", 32)]


def packed_rows(shape, weight_format):
    return PackedTensor.pack(torch.randn(shape, generator=torch.Generator().manual_seed(0)), weight_format)


@pytest.mark.parametrize("weight_format", ROW_FORMATS, ids=str)
@pytest.mark.parametrize("shape", [(50, 176), (31, 15)])
def test_rows_are_those_of_the_whole_weight(shape, weight_format):
    pack = packed_rows(shape, weight_format)
    rows = torch.tensor([[0, 30, 7], [7, 1, 29]])

    assert torch.equal(unpack_rows(pack, rows), pack.unpack()[rows])


@pytest.mark.parametrize("weight_format", ROW_FORMATS, ids=str)
@pytest.mark.parametrize("shape", [(3000, 176), (2100, 24), (70, 15)])
def test_parts_one_after_another_are_the_whole_weight(shape, weight_format):
    pack = packed_rows(shape, weight_format)

    parts = [part.clone() for part in unpack_in_parts(pack, 200_000)]

    assert torch.equal(torch.cat(parts), pack.unpack())
    assert shape[0] < 1000 or len(parts) > 1


FORMATS = [
    WeightFormat(),
    WeightFormat(double_quantize=True),
    WeightFormat("fp4", 128),
    WeightFormat(block_size=32),
    WeightFormat(block_size=4096),
]


def packed(*shape, weight_format=FORMATS[1]):
    torch.manual_seed(len(shape))
    return PackedTensor.pack(torch.randn(shape), weight_format)


@pytest.mark.parametrize("weight_format", FORMATS, ids=str)
@pytest.mark.parametrize("shape", [(64, 64), (3, 2, 5), (5, 3), (1,), (256, 9, 3, 3), (700, 100)], ids=str)
def test_it_has_the_bits_of_unpack(shape, weight_format):
    pack = packed(*shape, weight_format=weight_format)

    found = unpack_for_now(pack)

    assert found.shape == pack.shape and torch.equal(found, pack.unpack())


def test_the_next_weight_lies_where_the_last_one_lay():
    large, small = packed(64, 64), packed(16, 4)
    where = unpack_for_now(large).data_ptr()

    assert unpack_for_now(small).data_ptr() == where
    assert unpack_for_now(large).data_ptr() == where


def test_a_larger_weight_gets_larger_memory():
    unpack_for_now(packed(8, 8))
    pack = packed(600, 600)

    assert torch.equal(unpack_for_now(pack), pack.unpack())


def test_threads_have_memory_of_their_own():
    mine = unpack_for_now(packed(32, 32))
    before, theirs = mine.clone(), []
    thread = threading.Thread(target=lambda: theirs.append(unpack_for_now(packed(32, 32, 1))))

    thread.start()
    thread.join()

    assert theirs[0].data_ptr() != mine.data_ptr() and torch.equal(mine, before)


def test_without_the_kernel_the_weight_is_unpacked_as_ever(monkeypatch):
    pack = packed(64, 64)
    monkeypatch.setattr(layers, "_kernel", lambda quant_type: None)

    first, second = unpack_for_now(pack), unpack_for_now(pack)

    assert torch.equal(first, pack.unpack()) and first.data_ptr() != second.data_ptr()


def test_a_library_that_lacks_the_kernel_is_noticed():
    assert layers._kernel.__wrapped__("nf4") is not None
    assert layers._kernel.__wrapped__("nf3") is None
