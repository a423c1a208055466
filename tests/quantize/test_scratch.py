"""Weights that are unpacked for one product: the bits of `unpack`, in memory that is used again."""

import threading

import pytest
import torch

from pqm_plugin.quantize import scratch
from pqm_plugin.quantize.packed import PackedTensor, WeightFormat
from pqm_plugin.quantize.scratch import unpack_for_now

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
    monkeypatch.setattr(scratch, "_kernel", lambda quant_type: None)

    first, second = unpack_for_now(pack), unpack_for_now(pack)

    assert torch.equal(first, pack.unpack()) and first.data_ptr() != second.data_ptr()


def test_a_library_that_lacks_the_kernel_is_noticed():
    assert scratch._kernel.__wrapped__("nf4") is not None
    assert scratch._kernel.__wrapped__("nf3") is None
