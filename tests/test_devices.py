"""What a device has and can do, where it is there and where it is not."""

import pytest
import torch
from torch import nn

from pqm_plugin.devices import device_of, free_bytes, multiplies_bfloat16
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
    assert not multiplies_bfloat16("cuda")
    assert free_bytes("cpu") == pytest.approx(free_memory_bytes(), rel=0.5)


@pytest.mark.parametrize(("name", "expected"), [("avx512_bf16", True), ("amx_bf16", True), ("avx2", False)])
def test_a_processor_multiplies_bfloat16_where_it_has_an_instruction_for_it(monkeypatch, name, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64", name: True})

    assert multiplies_bfloat16("cpu") is expected


@pytest.mark.gpu
def test_of_a_gpu_its_own_memory_is_told():
    free = free_bytes("cuda")

    assert 0 < free <= torch.cuda.get_device_properties(0).total_memory
