"""What products in bfloat16 gain over float32 on this machine, in layers of the size that a model has."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.common import ratios, spread, turns
from pqm_plugin.devices import multiplies_bfloat16
from pqm_plugin.models.families import family_of
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.quantize.layers import quantize_layers
from pqm_plugin.quantize.packed import WeightFormat

UTTERANCE_ROWS = 250
"""Rows of a product in the encoder: ten seconds at forty milliseconds a frame."""
_CALLS, _TURNS = 50, 5


@torch.no_grad()
def bfloat16(model: Path, beam: int, device: str = "cpu") -> dict[str, Any]:
    """How many times faster mode `fast` multiplies than `exact`, on one thread.

    `supported` is whether the processor has instructions for it. `by_rows` is of the largest linear layer of the
    model's encoder, for as many rows as a step of the search has (`beam`), and an utterance in the encoder.
    """
    network = family_of(model).load_float(model, SearchOptions(), "cpu").network
    largest = max(
        (layer for layer in network.encoder.modules() if isinstance(layer, nn.Linear)),
        key=lambda one: one.weight.numel(),
    )
    shape = tuple(largest.weight.shape)
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = {str(rows): _speedup(shape, rows, device) for rows in (beam, UTTERANCE_ROWS)}
    finally:
        torch.set_num_threads(n_threads)
    return {"supported": multiplies_bfloat16(device), "layer": list(shape), "by_rows": found}


def _speedup(shape: tuple[int, ...], rows: int, device: str) -> dict[str, float]:
    x = torch.randn(1, rows, shape[1], device=device)

    def repeat(layer: nn.Module) -> None:
        for _ in range(_CALLS):
            layer(x)

    layers = {mode: partial(repeat, _layer(shape, mode, device)) for mode in ("exact", "fast")}
    turns(layers, 1, device)  # warms up
    took = turns(layers, _TURNS, device)
    return spread(ratios(took["exact"], took["fast"]), 2)


def _layer(shape: tuple[int, ...], mode: str, device: str) -> nn.Module:
    net = nn.Sequential(nn.Linear(shape[1], shape[0]))
    quantize_layers(net, ["0"], WeightFormat(), mode)
    return net.to(device)
