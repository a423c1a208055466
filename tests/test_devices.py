"""What a device has and can do, where it is there and where it is not."""

import pytest
import torch
from torch import nn

from pqm_plugin.devices import device_of, free_bytes, whole_float32
from pqm_plugin.processes import free_memory_bytes


def test_a_network_is_where_its_parameters_are_or_else_its_buffers():
    buffers = nn.Module()
    buffers.register_buffer("codes", torch.zeros(2, device="meta"))

    assert device_of(nn.Linear(2, 2)).type == "cpu"
    assert device_of(nn.Linear(2, 2, device="meta")).type == "meta"
    assert device_of(buffers).type == "meta"


def test_where_no_gpu_is_nobody_tells_what_is_free_on_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    assert free_bytes("cuda") == 0
    assert free_bytes("cpu") == pytest.approx(free_memory_bytes(), rel=0.5)


@pytest.mark.gpu
def test_of_a_gpu_its_own_memory_is_told():
    free = free_bytes("cuda")

    assert 0 < free <= torch.cuda.get_device_properties(0).total_memory


def test_convolutions_of_float32_drop_no_bits_within_and_as_many_as_before_afterwards(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)

    with pytest.raises(ValueError, match="no clip"), whole_float32():
        assert not torch.backends.cudnn.allow_tf32
        raise ValueError("no clip")

    assert torch.backends.cudnn.allow_tf32


def test_what_a_program_has_set_for_convolutions_alone_is_left_to_it(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    conv = torch.backends.cudnn.conv
    conv.fp32_precision = "ieee"

    try:
        with whole_float32():
            assert conv.fp32_precision == "ieee"
    finally:
        conv.fp32_precision = "tf32"


@pytest.mark.gpu
def test_on_a_gpu_a_convolution_of_float32_computes_in_float32():
    torch.manual_seed(0)
    conv, x = nn.Conv1d(256, 256, 15), torch.randn(4, 256, 100)
    exact = conv.double()(x.double())
    there = conv.float().cuda()

    with whole_float32():
        found = there(x.cuda())

    assert (found.cpu() - exact).abs().max() < 1e-5
