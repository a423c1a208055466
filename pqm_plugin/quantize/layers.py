"""Layers whose weight is packed: the same layer, the same forward, another place where `weight` comes from."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from pqm_plugin.quantize.packed import PackedTensor, WeightFormat

MODES = ("exact", "small")


class PackedWeight:
    """Mixed into a layer's class: `weight` is unpacked from 4 bits, once or at every use.

    A layer stays an instance of its own class (`nn.Linear`, `nn.Conv1d`, …): its forward, and peft's way of wrapping
    it, are those of the float layer.
    """

    packed: PackedTensor
    expanded: Tensor | None

    @property
    def weight(self) -> Tensor:
        """The dequantised weight, float32, without gradient."""
        return self.packed.unpack() if self.expanded is None else self.expanded


@functools.cache
def _packed_class(cls: type[nn.Module]) -> type[nn.Module]:
    return type(f"Packed{cls.__name__}", (PackedWeight, cls), {"__doc__": f"{cls.__name__} with a 4-bit weight."})


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
        mode: `exact` keeps an unpacked float32 copy in memory; `small` keeps the codes only and unpacks at every use.
            Both compute the same bits.
    """
    if mode not in MODES:
        raise ValueError(f"mode {mode!r}: use one of {', '.join(MODES)}")
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
