"""Layers whose weight is packed: the same class and forward, but `weight` is unpacked; and the error this makes."""

import functools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pqm_plugin.quantize.modes import check_mode
from pqm_plugin.quantize.packed import PackedTensor, WeightFormat
from pqm_plugin.quantize.unpack import kernel_product, kernel_takes, unpack_for_now, unpack_in_parts, unpack_rows

_PART_BYTES = 2**22
"""A weight that is larger as float32 is unpacked in parts of this size, where no gradient is asked for."""


class PackedWeight:
    """Mixed into a layer's class: `weight` is unpacked from 4 bits, once or at every use.

    A layer stays an instance of its own class (`nn.Linear`, `nn.Conv1d`, …): its forward, and peft's way of wrapping
    it, are those of the float layer. `expanded` is None in mode `small`, float32 in `exact`.
    """

    packed: PackedTensor
    expanded: Tensor | None

    @property
    def weight(self) -> Tensor:
        """The dequantised weight, float32, without gradient."""
        return self.packed.unpack() if self.expanded is None else self.expanded

    def weight_for_now(self) -> Tensor:
        """`weight` for a product that is computed at once: without gradients it may lie where the next one will."""
        if self.expanded is not None or torch.is_grad_enabled():
            return self.weight
        return unpack_for_now(self.packed)


class PackedLinear(PackedWeight):
    """A linear map over a packed weight; whatever the mode, it takes and gives the dtype of `input`."""

    bias: Tensor | None

    def forward(self, input: Tensor) -> Tensor:
        """As `nn.Linear`."""
        # Modules find a buffer slowly, and a search calls this some thousand times for an utterance.
        expanded = self.expanded
        if expanded is not None:
            return functional.linear(input, expanded, self.bias)
        if kernel_takes(input, self.packed):
            return kernel_product(input, self.packed, self.bias)
        if 4 * self.packed.shape.numel() <= _PART_BYTES or torch.is_grad_enabled():
            return functional.linear(input, self.weight_for_now(), self.bias)
        parts = [functional.linear(input, weight) for weight in unpack_in_parts(self.packed, _PART_BYTES)]
        product = torch.cat(parts, dim=-1)
        return product if self.bias is None else product + self.bias


class PackedEmbedding(PackedWeight):
    """An embedding over a packed weight; in mode `small` only the rows that are asked for are unpacked."""

    def forward(self, input: Tensor) -> Tensor:
        """As `nn.Embedding` without a limit on norms, which no gradient reaches anyway."""
        if self.expanded is None:
            return unpack_rows(self.packed, input)
        return functional.embedding(input, self.expanded)


class PackedConv(PackedWeight):
    """A convolution over a packed weight."""

    bias: Tensor | None
    _conv_forward: Any

    def forward(self, input: Tensor) -> Tensor:
        """As the convolution itself."""
        found: Tensor = self._conv_forward(input, self.weight_for_now(), self.bias)
        return found


@functools.cache
def _packed_class(cls: type[nn.Module]) -> type[nn.Module]:
    mixins = {nn.Linear: PackedLinear, nn.Embedding: PackedEmbedding, nn.Conv1d: PackedConv, nn.Conv2d: PackedConv}
    # A subclass may have a forward of its own: only `weight` is changed there.
    mixin = mixins.get(cls, PackedWeight)
    return type(f"Packed{cls.__name__}", (mixin, cls), {"__doc__": f"{cls.__name__} with a 4-bit weight."})


def quantize_layers(network: nn.Module, names: Sequence[str], weight_format: WeightFormat, mode: str = "exact") -> None:
    """Quantise the weights of the named layers of `network`, in place; layers that share a weight go on sharing it.

    Raises:
        ValueError: if a name is no layer with a weight, or the list is empty.
    """
    if not names:
        raise ValueError("no layer to quantize was named: an empty list would leave the model as it is")
    packs: dict[int, PackedTensor] = {}
    for name in names:
        weight = getattr(network.get_submodule(name), "weight", None)
        if not isinstance(weight, nn.Parameter):
            raise ValueError(f"{name} has no float weight to quantize")
        pack = packs.setdefault(id(weight), PackedTensor.pack(weight, weight_format))
        install(network.get_submodule(name), pack, mode)


def install(layer: nn.Module, pack: PackedTensor, mode: str) -> None:
    """Let `layer` take its weight from `pack`.

    Args:
        mode: `exact` keeps an unpacked float32 copy in memory; `small` keeps the codes only and unpacks at every use,
            with the same result, but on a GPU up to the order of sums, see `kernel_product`.

    Raises:
        ValueError: for another mode, or a pack that is not of the layer's shape.
    """
    check_mode(mode)
    shape = layer.get_parameter("weight").shape
    if shape != pack.shape:
        raise ValueError(f"packed weight of shape {tuple(pack.shape)} for a layer of {tuple(shape)}")
    del layer._parameters["weight"]
    layer.__class__ = _packed_class(type(layer))  # type: ignore[arg-type]
    layer.register_buffer("expanded", pack.unpack() if mode == "exact" else None, persistent=False)
    layer.add_module("packed", pack)


def packed_layers(network: nn.Module) -> Mapping[str, Any]:
    """Every layer of `network` with a packed weight, by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, PackedWeight)}


def weights_of(network: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Copies of the named layers' float weights, to be compared with afterwards."""
    return {name: network.get_parameter(f"{name}.weight").detach().clone() for name in names}


def measure(network: nn.Module, kinds: Mapping[str, str], before: Mapping[str, Tensor]) -> dict[str, Any]:
    """Parameters, bytes and relative RMS error of each kind of layer, and how many parameters stayed as they were.

    Args:
        kinds: kind of every quantised layer, by name.
        before: their float weights, see `weights_of`.
    """
    rows: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    seen: set[int] = set()
    for name, layer in packed_layers(network).items():
        row = rows[kinds[name]]
        row["layers"] += 1
        if id(layer.packed) in seen:  # a weight that two layers share
            continue
        seen.add(id(layer.packed))
        row["parameters"] += before[name].numel()
        row["size_bytes"] += layer.packed.size_bytes
        row["error"] += float((layer.weight - before[name]).square().sum())
        row["energy"] += float(before[name].square().sum())
    table = [
        {
            "kind": kind,
            "layers": int(row["layers"]),
            "parameters": int(row["parameters"]),
            "size_bytes": int(row["size_bytes"]),
            "relative_error": (row["error"] / row["energy"]) ** 0.5,
        }
        for kind, row in sorted(rows.items())
    ]
    rest = sum(parameter.numel() for parameter in network.parameters())
    quantized = int(sum(row["parameters"] for row in rows.values()))
    return {"kinds": table, "parameters": quantized + rest, "parameters_not_quantized": rest}
