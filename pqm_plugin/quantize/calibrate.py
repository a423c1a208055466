"""Quantise layers so that what they compute on given speech changes least, in the manner of GPTQ."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pqm_plugin.quantize.layers import install
from pqm_plugin.quantize.moments import Moments
from pqm_plugin.quantize.packed import PackedTensor, WeightFormat, read_scales
from pqm_plugin.quantize.rounding import Grid, round_compensated, search_scales, spread

_DAMPING = 0.01
"""Part of the mean second moment that is added to each, as in the paper."""


def moments_of(network: nn.Module, names: Sequence[str]) -> Moments:
    """Moments, still to be gathered, of what the named layers of a float network hear.

    Embeddings and layers that share their weight have none: what they look up are no numbers.
    """
    layers = {name: network.get_submodule(name) for name in names}
    looked_up = {id(layer.weight) for layer in layers.values() if isinstance(layer, nn.Embedding)}
    return Moments(network, [name for name, layer in layers.items() if id(layer.weight) not in looked_up])


def listen(network: nn.Module, names: Sequence[str], calls: Iterable[Callable[[], object]]) -> Moments:
    """Run the float network and take the second moments of what the named layers hear, see `moments_of`.

    Args:
        calls: each runs the network once, on an utterance of its own, without padding; what is computed to get at the
            next call is not counted.

    Raises:
        ValueError: if there is no call.
    """
    moments, n_calls = moments_of(network, names), 0
    with torch.no_grad():
        for call in calls:
            with moments.gathering():
                call()
            n_calls += 1
    if not n_calls:
        raise ValueError("no utterance to calibrate on")
    return moments


def round_layers(network: nn.Module, names: Sequence[str], weight_format: WeightFormat, moments: Moments) -> None:
    """Quantise the weights of the named layers, in place, as `quantize_layers` does but for the rounding.

    A layer without moments is rounded to nearest levels, on scales that are searched for.
    """
    packs: dict[int, PackedTensor] = {}
    for name in tqdm(names, desc="round", unit="layer"):
        layer = network.get_submodule(name)
        weight = layer.get_parameter("weight")
        if id(weight) not in packs:
            packs[id(weight)] = pack_for(weight.detach().float(), moments.gram(name), weight_format)
        install(layer, packs[id(weight)], "exact")


def pack_for(weight: Tensor, gram: Tensor | None, weight_format: WeightFormat) -> PackedTensor:
    """Quantise a weight for inputs whose second moments are known.

    Args:
        weight: float32, groups and rows first, (G * O, ...) with K values in a row.
        gram: float32 (G, K, K), or None for nearest levels.
    """
    scales = search_scales(weight, weight_format)
    scale = spread(read_scales(scales), weight.shape, weight_format.block_size)
    grid = Grid(weight_format.quant_type)
    if gram is None:
        places = grid.nearest(weight, scale)
    else:
        rows = (len(gram), -1, gram.shape[1])
        places = round_compensated(weight.reshape(rows), damped(gram), scale.reshape(rows), grid)
    return PackedTensor.of(grid.codes(places), scales, weight.shape, weight_format)


def damped(gram: Tensor) -> Tensor:
    """Second moments in float64 that can be inverted, whatever the layer heard."""
    found = gram.double()
    mean = found.diagonal(dim1=1, dim2=2).mean(1)
    # An input that is always zero says nothing of the weights: all count alike.
    extra = torch.where(mean > 0, _DAMPING * mean, 1.0)
    return found + extra[:, None, None] * torch.eye(found.shape[1], dtype=found.dtype)
