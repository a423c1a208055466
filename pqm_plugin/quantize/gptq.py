"""Quantise layers by calibration, so that their outputs on given speech change least (GPTQ)."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from pqm_plugin.progress import Bar
from pqm_plugin.quantize.layers import install
from pqm_plugin.quantize.packed import PackedTensor, WeightFormat, levels, read_scales, store_scales

_MAX_POSITIONS = 512
"""Positions of one call that count, evenly spaced: neighbours have nearly the same input."""


class Moments:
    """Second moments of the inputs of layers, gathered call after call.

    `gram[layer]` is float32 (G, K, K), the sum over positions of outer products of the input of each of G groups, K
    values long (for convolutions: of the patch under the kernel). Layers with the same input tensor share one.
    """

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        self._network = network
        self._names = names
        self._owner: dict[str, str] = {}
        self._seen: dict[tuple[object, ...], tuple[Tensor, str]] = {}
        self._grams: dict[str, Tensor] = {}

    def gram(self, name: str) -> Tensor | None:
        """The moments of a layer; None if it was never called."""
        return self._grams.get(self._owner.get(name, name))

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Gather from every call inside; one `with` for each call of the whole network."""
        handles = [
            self._network.get_submodule(name).register_forward_pre_hook(
                lambda layer, inputs, name=name: self._add(name, layer, inputs[0])
            )
            for name in self._names
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._seen.clear()

    def _add(self, name: str, layer: nn.Module, given: Tensor) -> None:
        key = (id(given), *geometry(layer))
        # The tensor is held until the call ends, so that no other can have its id.
        _, owner = self._seen.setdefault(key, (given, name))
        if self._owner.setdefault(name, owner) != name:
            return
        rows = patches(layer, given)
        stride = -(-rows.shape[1] // _MAX_POSITIONS)
        rows = rows[:, ::stride]
        gram = rows.mT @ rows
        self._grams[name] = self._grams[name] + gram if name in self._grams else gram


def geometry(layer: nn.Module) -> tuple[object, ...]:
    """What beside its input decides the patches that a layer multiplies."""
    if not isinstance(layer, nn.Conv1d | nn.Conv2d):
        return ()
    return (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)


def patches(layer: nn.Module, given: Tensor) -> Tensor:
    """The inputs of each output of a layer, (G, N, K): N positions, K values that each of G groups multiplies.

    Raises:
        ValueError: for layers that are neither linear nor convolutions of one or two dimensions.
    """
    if isinstance(layer, nn.Linear):
        return given.reshape(1, -1, layer.in_features)
    if not isinstance(layer, nn.Conv1d | nn.Conv2d):
        raise ValueError(f"{type(layer).__name__} is neither a linear layer nor a convolution")
    padded = functional.pad(given, layer._reversed_padding_repeated_twice)
    if isinstance(layer, nn.Conv1d):
        found = functional.unfold(
            padded[:, :, None], (1, *layer.kernel_size), (1, *layer.dilation), 0, (1, *layer.stride)
        )
    else:
        found = functional.unfold(padded, layer.kernel_size, layer.dilation, 0, layer.stride)
    batch, _, positions = found.shape
    return (
        found.reshape(batch, layer.groups, -1, positions)
        .permute(1, 0, 3, 2)
        .reshape(layer.groups, batch * positions, -1)
    )


_RATIOS = torch.linspace(0.70, 1.04, 18)
"""Scales that are tried for a block, as parts of its largest magnitude."""
_TINY = torch.finfo(torch.float32).tiny
_CHUNK = 128
"""Columns whose compensation reaches the columns behind them in one product."""


class Grid:
    """The levels of a type, sorted, and how to find the nearest."""

    def __init__(self, quant_type: str) -> None:
        values, self._codes = levels(quant_type).sort()
        self.values = values
        self._borders = (values[1:] + values[:-1]) / 2

    def nearest(self, weight: Tensor, scale: Tensor) -> Tensor:
        """Places in `values` of the levels that, times `scale`, are nearest to `weight`, int64.

        What lies beyond the last level gets the last; a scale of zero stands for a block of zeros.
        """
        return torch.bucketize(weight / scale.clamp_min(_TINY), self._borders)

    def codes(self, places: Tensor) -> Tensor:
        """Codes of the levels at `places`, uint8."""
        return self._codes[places].to(torch.uint8)


def search_scales(weight: Tensor, weight_format: WeightFormat) -> dict[str, Tensor]:
    """For each block of the flattened weight the scale with the least squared error, as `store_scales` keeps it."""
    grid, size = Grid(weight_format.quant_type), weight_format.block_size
    flat = weight.reshape(-1)
    blocks = functional.pad(flat, (0, -flat.numel() % size)).reshape(-1, size)
    largest = blocks.abs().amax(1, keepdim=True)
    best = torch.full_like(largest, torch.inf)
    chosen = largest.clone()
    for ratio in _RATIOS:
        scale = largest * ratio
        error = blocks - grid.values[grid.nearest(blocks, scale)] * scale
        cost = error.square().sum(1, keepdim=True)
        better = cost < best
        best, chosen = torch.where(better, cost, best), torch.where(better, scale, chosen)
    return store_scales(chosen[:, 0].contiguous(), weight_format)


def spread(scales: Tensor, shape: torch.Size, block_size: int) -> Tensor:
    """The scale of each weight, in the weight's shape: blocks run on over the ends of rows."""
    return scales.repeat_interleave(block_size)[: shape.numel()].reshape(shape)


def round_compensated(weight: Tensor, gram: Tensor, scale: Tensor, grid: Grid) -> Tensor:
    """Round column after column, each error made up for by the columns that follow; returns places in the grid.

    Args:
        weight: float32 (G, O, K), G groups of O rows.
        gram: float64 or float32 (G, K, K), positive definite: second moments of the inputs.
        scale: the scale of each weight, (G, O, K).

    Source: Frantar et al. 2023 (GPTQ), with columns in order of falling second moment.
    """
    order = gram.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True)
    rows = order[:, None, :].expand_as(weight)
    left, steps = weight.gather(2, rows), scale.gather(2, rows)
    sorted_gram = gram.gather(1, order[:, :, None].expand_as(gram)).gather(2, order[:, None, :].expand_as(gram))
    factor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(sorted_gram)), upper=True).float()
    places = torch.empty_like(left, dtype=torch.int64)
    n = left.shape[2]
    for first in range(0, n, _CHUNK):
        last = min(first + _CHUNK, n)
        errors = left.new_empty(*left.shape[:2], last - first)
        for column in range(first, last):
            step = steps[:, :, column]
            at = grid.nearest(left[:, :, column], step)
            places[:, :, column] = at
            error = (left[:, :, column] - grid.values[at] * step) / factor[:, column, column, None]
            errors[:, :, column - first] = error
            left[:, :, column:last] -= error[:, :, None] * factor[:, None, column, column:last]
        left[:, :, last:] -= errors @ factor[:, first:last, last:]
    return torch.empty_like(places).scatter_(2, rows, places)


_DAMPING = 0.01
"""Part of the mean second moment that is added to each, as in the paper."""


def moments_of(network: nn.Module, names: Sequence[str]) -> Moments:
    """Moments, still to be gathered, of the inputs of the named layers of a float network.

    Embeddings and layers that share their weight have none: their inputs are indices, not values.
    """
    layers = {name: network.get_submodule(name) for name in names}
    looked_up = {id(layer.weight) for layer in layers.values() if isinstance(layer, nn.Embedding)}
    return Moments(network, [name for name, layer in layers.items() if id(layer.weight) not in looked_up])


def listen(network: nn.Module, names: Sequence[str], calls: Iterable[Callable[[], object]]) -> Moments:
    """Run the float network and take the second moments of the inputs of the named layers, see `moments_of`.

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
    for name in Bar(names, desc="round", unit="layer"):
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
    """Second moments in float64 that can be inverted, whatever the layer's inputs were."""
    found = gram.double()
    mean = found.diagonal(dim1=1, dim2=2).mean(1)
    # An input that is always zero does not constrain the weights: all count alike.
    extra = torch.where(mean > 0, _DAMPING * mean, 1.0)
    return found + extra[:, None, None] * torch.eye(found.shape[1], dtype=found.dtype)
