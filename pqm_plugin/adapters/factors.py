"""The low-rank factors of an adapter, read straight from its file into one block of memory."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, deserialize
from torch import Tensor

from pqm_plugin.adapters.files import read_info_for
from pqm_plugin.adapters.names import WEIGHTS
from pqm_plugin.adapters.safety import check_adapter
from pqm_plugin.errors import PqmError

_PREFIX, _DOWN, _UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Those that `check_adapter` lets through."""

Shape = tuple[int, ...]
Layout = tuple[tuple[str, Shape, Shape], ...]
"""For each layer of the network: its name and the shapes of its factors, (rank, in, …) and (out, rank, …)."""


@dataclass(frozen=True)
class Factors:
    """An adapter: `flat` is float32 (n,), factor after factor as `layout` says; what they add is times `scale`."""

    flat: Tensor
    layout: Layout
    scale: float

    @property
    def size_bytes(self) -> int:
        """What the factors take in memory."""
        return self.flat.nbytes

    def layers(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Both factors of each layer by its name; they are views."""
        return _cut(self.flat, self.layout)


def read_factors(folder: Path, base_sha256: str, device: torch.device) -> Factors:
    """Read an adapter that `save_adapter` or plain peft wrote.

    Raises:
        PqmError: if it was made for another base, is damaged, or is more than a plain LoRA.
    """
    read_info_for(folder, base_sha256)
    config = check_adapter(folder)
    try:
        tensors = dict(deserialize((folder / WEIGHTS).read_bytes()))
    except (SafetensorError, OSError) as error:
        raise _damaged(folder, str(error).splitlines()[0]) from error
    names = sorted({name.removeprefix(_PREFIX).rpartition(".lora_")[0] for name in tensors})
    if len(tensors) != 2 * len(names):
        raise _damaged(folder, f"{WEIGHTS} lacks a factor of a layer")
    _check_targets(folder, names, config["target_modules"])
    try:
        pairs = [(tensors[f"{_PREFIX}{name}{_DOWN}"], tensors[f"{_PREFIX}{name}{_UP}"]) for name in names]
    except KeyError as error:
        raise _damaged(folder, f"{WEIGHTS} lacks {error}") from error
    layout = tuple(
        (name, tuple(down["shape"]), tuple(up["shape"])) for name, (down, up) in zip(names, pairs, strict=True)
    )
    flat = _joined(folder, [factor for pair in pairs for factor in pair])
    return Factors(flat.to(device), layout, float(config["lora_alpha"]) / int(config["r"]))


def _joined(folder: Path, factors: Sequence[Mapping[str, Any]]) -> Tensor:
    """The values of all, float32 (n,). As bytes: a tensor for each of some hundred factors takes ten times as long."""
    if not all(factor["data"] for factor in factors):
        raise _damaged(folder, f"{WEIGHTS} holds a factor without values")
    if all(factor["dtype"] == "F32" for factor in factors):
        return torch.frombuffer(bytearray().join(factor["data"] for factor in factors), dtype=torch.float32)
    parts = [torch.frombuffer(factor["data"], dtype=_DTYPES[factor["dtype"]]) for factor in factors]
    return torch.cat([part.to(torch.float32) for part in parts])


def stacked(adapters: Sequence[Factors]) -> dict[str, tuple[Tensor, Tensor]]:
    """By layer, the factors of all adapters: (adapters, rank, in, …) and (adapters, out, rank, …), the latter scaled.

    Lower ranks are filled up with zeros, and so is a layer that an adapter leaves alone.
    """
    layout = adapters[0].layout
    if all(adapter.layout == layout for adapter in adapters):
        found = _cut(torch.stack([adapter.flat for adapter in adapters]), layout)
    else:
        found = _padded(adapters)
    scales = adapters[0].flat.new_tensor([adapter.scale for adapter in adapters])
    for _, up in found.values():
        up.mul_(scales.view(-1, *[1] * (up.dim() - 1)))
    return found


def _cut(flat: Tensor, layout: Layout) -> dict[str, tuple[Tensor, Tensor]]:
    """Views of `flat`, (n,) or (adapters, n), as `layout` says."""
    factors = iter(cut(flat, [shape for _, down, up in layout for shape in (down, up)]))
    return {name: (next(factors), next(factors)) for name, _, _ in layout}


def cut(flat: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
    """Views of `flat`, (n,) or (rows, n), of these shapes or (rows, …), one after another."""
    parts = flat.split([prod(shape) for shape in shapes], dim=-1)
    return [part.unflatten(-1, shape) for part, shape in zip(parts, shapes, strict=True)]


def _padded(adapters: Sequence[Factors]) -> dict[str, tuple[Tensor, Tensor]]:
    shapes: dict[str, tuple[Shape, Shape]] = {}
    for adapter in adapters:
        for name, down, up in adapter.layout:
            rank = max(down[0], shapes[name][0][0]) if name in shapes else down[0]
            shapes[name] = ((rank, *down[1:]), (up[0], rank, *up[2:]))
    n, like = len(adapters), adapters[0].flat
    found = {name: (like.new_zeros(n, *down), like.new_zeros(n, *up)) for name, (down, up) in shapes.items()}
    for row, adapter in enumerate(adapters):
        for name, (inner, outer) in adapter.layers().items():
            found[name][0][row, : len(inner)] = inner
            found[name][1][row, :, : len(inner)] = outer
    return found


def _check_targets(folder: Path, names: Iterable[str], targets: Sequence[str]) -> None:
    """Refuse a layer that the configuration does not name: plain peft would leave it out."""
    known = frozenset(targets)
    for name in names:
        if name not in known and not name.endswith(tuple(f".{target}" for target in targets)):
            raise _damaged(folder, f"{WEIGHTS} holds {name[:80]!r}, which is none of its target_modules")


def _damaged(folder: Path, why: str) -> PqmError:
    return PqmError(f"{folder} is damaged ({why}): delete it and run its stage again")
