"""An adapter added to the float weights of its network, for tools that know no adapters."""

from dataclasses import dataclass

import torch
from torch import nn

from pqm_plugin.adapters.bank import Factors
from pqm_plugin.errors import PqmError


@dataclass(frozen=True)
class Untied:
    """A layer that had one weight with others, and has its own since an adapter of it alone was added."""

    layer: str
    others: tuple[str, ...]


def merge_factors(network: nn.Module, factors: Factors) -> list[Untied]:
    """Add what an adapter adds to each layer to that layer's weight, in place; sums are taken in float64.

    A weight that several layers share becomes the adapted layer's own: the others never had the adapter.

    Returns:
        The layers that no longer share their weight.

    Raises:
        PqmError: if a layer is not there, or its factors are not of its shape.
    """
    untied = []
    modules = dict(network.named_modules())
    for name, (down, up) in factors.layers().items():
        weight = getattr(modules.get(name), "weight", None)
        if not isinstance(weight, nn.Parameter):
            raise PqmError(f"the model has no layer {name[:80]!r} with float weights: the adapter is of another model")
        added = factors.scale * (up.flatten(1).double() @ down.flatten(1).double())
        if added.numel() != weight.numel() or len(added) != len(weight):
            raise PqmError(f"{name}: the adapter is for a weight of {tuple(added.shape)}, not {tuple(weight.shape)}")
        others = tuple(other for other, module in modules.items() if other != name and _has(module, weight))
        if others:
            untied.append(Untied(name, others))
        merged = (weight.detach().double() + added.reshape(weight.shape)).to(weight.dtype)
        modules[name].weight = nn.Parameter(merged, requires_grad=False)
    return untied


def _has(module: nn.Module, weight: torch.Tensor) -> bool:
    return any(parameter is weight for parameter in module.parameters(recurse=False))
