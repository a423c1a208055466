"""The device of a network, and what it has and can do."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn

from pqm_plugin.processes import free_memory_bytes


def device_of(network: nn.Module) -> torch.device:
    """Where the first of its tensors is; a network is never spread over several devices here."""
    return next(chain(network.parameters(), network.buffers())).device


def free_bytes(device: str) -> int:
    """Memory that is free on a device, for this process and others, in bytes; 0 where none tells."""
    if torch.device(device).type == "cpu":
        return free_memory_bytes()
    # A recipe may be started where no GPU is, and its jobs run elsewhere.
    return int(torch.cuda.mem_get_info(device)[0]) if torch.cuda.is_available() else 0


@contextmanager
def whole_float32() -> Iterator[None]:
    """Within it, a GPU's convolutions of float32 compute in float32, as its matrix products do by torch's default.

    By default torch lets them drop 13 of the 23 bits (TF32), and a clip is then not encoded alone as it is in a batch:
    sixteen Conformer blocks make more than 1e-3 of it. A program that has set torch's newer option for convolutions
    alone, `torch.backends.cudnn.conv.fp32_precision`, has chosen for itself.
    """
    try:
        before = torch.backends.cudnn.allow_tf32
    except RuntimeError:
        yield
        return
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
