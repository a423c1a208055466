"""Several LoRA adapters in one network: each row of a batch is computed with its own, in decoding and training."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, deserialize
from torch import Tensor, nn
from torch.nn import functional

from pqm_plugin.adapters import library
from pqm_plugin.adapters.files import check_adapter, read_info_for
from pqm_plugin.adapters.options import WEIGHTS
from pqm_plugin.devices import device_of
from pqm_plugin.errors import PqmError
from pqm_plugin.forwards import Forward, replaced_forwards

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


_NO_FACTORS = Factors(torch.zeros(0), (), 0.0)


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
    scales = next(iter(found.values()))[0].new_tensor([adapter.scale for adapter in adapters])
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
    # A row without an adapter has no values that tell where they are.
    n, like = len(adapters), next(adapter.flat for adapter in adapters if adapter.layout)
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


LIMIT_BYTES = 2**28
"""Memory that adapters may take by default: 1,000 of 67,000 parameters, or 57 of 1 % of a base of 116 million."""
_CONVOLUTIONS: Mapping[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv1d: functional.conv1d,
    nn.Conv2d: functional.conv2d,
}


def _as_it_is(x: Tensor) -> Tensor:
    return x


class AdapterBank:
    """Adapters of one frozen network, loaded when they are first asked for; those longest unused make room.

    The network is not wrapped. peft's modules cost every switch and every load a walk over all adapters that are there,
    a second from some dozens on; here an adapter is a block of memory, and a switch gives its layers another forward,
    which computes what peft's does, in the same order.
    """

    def __init__(self, network: nn.Module, base_sha256: str, limit_bytes: int = LIMIT_BYTES) -> None:
        """Hold adapters of at most `limit_bytes`, as float32, or as many as one batch needs."""
        self._network = network
        self._base_sha256 = base_sha256
        self._limit_bytes = limit_bytes
        self._held: OrderedDict[Path, Factors] = OrderedDict()
        self._stamps: dict[Path, tuple[int, ...]] = {}
        self._layouts: dict[Layout, Layout] = {}
        self._layers: dict[str, nn.Module] = {}
        self.held_bytes = 0

    def __len__(self) -> int:
        """Adapters that are in memory."""
        return len(self._held)

    def load(self, folders: Sequence[Path]) -> list[Path]:
        """Make these adapters ready and return those that were not yet, or were written anew since.

        Raises:
            PqmError: if one was made for another base, is damaged, or does not fit the network.
        """
        wanted = list(dict.fromkeys(folders))
        for folder in wanted:
            if folder in self._held and self._stamps[folder] != (stamp := _stamp(folder)) and stamp:
                self.held_bytes -= self._held.pop(folder).size_bytes
        fresh = [folder for folder in wanted if folder not in self._held]
        for folder in wanted:
            if folder not in self._held:
                # Before it is read: what is written meanwhile is then read again.
                self._stamps[folder] = _stamp(folder)
                self._held[folder] = self._read(folder)
                self.held_bytes += self._held[folder].size_bytes
            self._held.move_to_end(folder)
        while self.held_bytes > self._limit_bytes and len(self._held) > len(wanted):
            oldest, factors = self._held.popitem(last=False)
            self.held_bytes -= factors.size_bytes
            del self._stamps[oldest]
        return fresh

    @contextmanager
    def rows(self, folders: Sequence[Path | None]) -> Iterator[None]:
        """Within it, row i of a batch is computed with the adapter in `folders[i]`, with none where that is None.

        Where `folders` is empty, no row has an adapter.

        A batch may have a multiple of so many rows, as in a beam search: each adapter then has as many in a row.
        """
        self.load([folder for folder in folders if folder is not None])
        forwards = self._forwards([_NO_FACTORS if folder is None else self._held[folder] for folder in folders])
        with replaced_forwards((layer, forwards.get(name)) for name, layer in self._layers.items()):
            yield

    def _read(self, folder: Path) -> Factors:
        found = read_factors(folder, self._base_sha256, device_of(self._network))
        if not self._layouts:
            # As peft does: torch chooses its product by whether a weight wants a gradient, even where none is computed.
            # Once: walking through the network takes longer than reading an adapter.
            self._network.requires_grad_(False)
        if found.layout not in self._layouts:
            for name, down, up in found.layout:
                self._layers[name] = _layer(self._network, folder, name, (up[0], *down[1:]))
            self._layouts[found.layout] = found.layout
        # Adapters of one shape share its description.
        return Factors(found.flat, self._layouts[found.layout], found.scale)

    def _forwards(self, adapters: Sequence[Factors]) -> dict[str, Forward]:
        if all(adapter is _NO_FACTORS for adapter in adapters):
            return {}
        first = adapters[0]
        if all(adapter is first for adapter in adapters):
            return {name: _alone(self._layers[name], *pair, first.scale) for name, pair in first.layers().items()}
        layers = stacked(adapters)
        return {name: by_row(name, self._layers[name], *pair) for name, pair in layers.items()}

    def without(self) -> AbstractContextManager[None]:
        """Within it the network computes as if it had no adapter."""
        return self.rows([])


def _stamp(folder: Path) -> tuple[int, ...]:
    """What tells an adapter's file from one that took its place; empty where there is none any more."""
    try:
        found = (folder / WEIGHTS).stat()
    except OSError:
        return ()
    return found.st_ino, found.st_mtime_ns, found.st_size


def _layer(network: nn.Module, folder: Path, name: str, shape: tuple[int, ...]) -> nn.Module:
    """The layer that an adapter names, whose weight must have `shape`."""
    try:
        layer: Any = network.get_submodule(name)
    except AttributeError:
        raise PqmError(
            f"{folder} targets layer {name[:80]!r}, which this model does not have: decode with its own base"
        ) from None
    if not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d) or getattr(layer, "groups", 1) != 1:
        raise PqmError(f"{folder} adapts {name}: adapters on {type(layer).__name__} layers are not supported")
    own: tuple[int, ...]
    if isinstance(layer, nn.Linear):
        own = (layer.out_features, layer.in_features)
    else:
        own = (layer.out_channels, layer.in_channels, *layer.kernel_size)
    if own != shape:
        raise PqmError(f"{folder} is damaged ({name} has a weight of {own}, its factors give {shape}): make it again")
    return layer


def _alone(layer: Any, down: Tensor, up: Tensor, scale: float) -> Forward:
    """The forward of `layer` with one adapter for all rows, rounded as peft rounds."""
    plain = type(layer).forward
    if isinstance(layer, nn.Linear):

        def projected(x: Tensor) -> Tensor:
            result: Tensor = plain(layer, x)
            added = functional.linear(functional.linear(x.to(down.dtype), down), up) * scale
            return (result + added).to(result.dtype)

        return projected
    convolve = _convolution(layer)

    def convolved(x: Tensor) -> Tensor:
        result: Tensor = plain(layer, x)
        inner = convolve(x.to(down.dtype), down, None, layer.stride, layer.padding, layer.dilation)
        return (result + convolve(inner, up) * scale).to(result.dtype)

    return convolved


def by_row(
    name: str, layer: nn.Module, down: Tensor, up: Tensor, before: Callable[[Tensor], Tensor] = _as_it_is
) -> Forward:
    """The forward of `layer` with an adapter for each row.

    Args:
        name: what an error calls the layer.
        down: (rows, rank, in, …).
        up: (rows, out, rank, …), scaled.
        before: applied to the input of the adapter alone, such as dropout.

    Source: Chen et al. 2023 (Punica), section 3: gathered low-rank products.
    """
    plain = type(layer).forward
    add = _add_projected if isinstance(layer, nn.Linear) else _add_convolved

    def forward(x: Tensor) -> Tensor:
        repeats, rest = divmod(len(x), len(down))
        if rest or not repeats:
            raise ValueError(f"{name}: a batch of {len(x)} rows for {len(down)} adapters")
        result: Tensor = plain(layer, x)
        return add(result, before(x.to(down.dtype)), down, up, layer).to(result.dtype)

    return forward


def _add_projected(result: Tensor, x: Tensor, down: Tensor, up: Tensor, layer: Any) -> Tensor:
    """`x` (rows, …, in); rows of one adapter are together."""
    flat = x.reshape(len(down), -1, x.shape[-1])
    return result + torch.bmm(torch.bmm(flat, down.mT), up.mT).reshape(result.shape)


def _add_convolved(result: Tensor, x: Tensor, down: Tensor, up: Tensor, layer: Any) -> Tensor:
    """`x` (rows, in, …): every row is a group of one convolution."""
    repeats = len(x) // len(down)
    down, up = down.repeat_interleave(repeats, 0), up.repeat_interleave(repeats, 0)
    inner = _convolution(layer)(
        x.reshape(1, -1, *x.shape[2:]),
        down.flatten(0, 1),
        None,
        layer.stride,
        layer.padding,
        layer.dilation,
        groups=len(x),
    )
    places = inner.reshape(*down.shape[:2], -1)  # (rows, rank, positions)
    return result + torch.bmm(up.flatten(2), places).reshape(result.shape)


def _convolution(layer: nn.Module) -> Callable[..., Tensor]:
    return next(function for kind, function in _CONVOLUTIONS.items() if isinstance(layer, kind))


DOWN, UP = "all.lora_A.weight", "all.lora_B.weight"
"""Names of a speaker's parameters: all down-projections, float32 (n,), and all up-projections, float32 (m,)."""
SpeakerParameters = Mapping[str, nn.Parameter]


@dataclass(frozen=True)
class _Place:
    """A layer whose adapter is trained: peft's module around it, the factors there, and the scale of their product."""

    around: Any
    down: nn.Parameter
    up: nn.Parameter
    scale: float
    dropout: nn.Module

    @property
    def layer(self) -> nn.Module:
        found: nn.Module = self.around.get_base_layer()
        return found


class LearningRows:
    """The trainable part of the adapter around a network, once for each speaker.

    A speaker's factors are two blocks of memory, so that a step of Adam is as few operations as it can be. The adapter
    in the network is what they start from and what one of them is put into at its end; meanwhile only those of its
    layers are used that are not trained, and its dropout.
    """

    def __init__(self, model: nn.Module) -> None:
        """Find what is trainable in `model`.

        Raises:
            PqmError: if more than the factors of LoRA is trainable, or nothing.
        """
        self._places = {name: place for name, module in model.named_modules() for place in _learning(module)}
        factors = {id(factor) for place in self._places.values() for factor in (place.down, place.up)}
        others = [name for name, value in model.named_parameters() if value.requires_grad and id(value) not in factors]
        if others or not self._places:
            what = others[0] if others else "nothing"
            raise PqmError(
                f"{what} is trained, which several speakers cannot do in one batch: use --speakers_per_batch 1"
            )

    def parameters(self) -> dict[str, nn.Parameter]:
        """A speaker's own parameters, with the values that the adapter in the network has now."""
        blocks = {DOWN: [place.down for place in self._places.values()], UP: [p.up for p in self._places.values()]}
        return {
            name: nn.Parameter(torch.cat([factor.detach().flatten() for factor in factors]))
            for name, factors in blocks.items()
        }

    @torch.no_grad()
    def put(self, parameters: SpeakerParameters) -> None:
        """Give the adapter in the network a speaker's values."""
        places = self._places.values()
        for name, factors in ((DOWN, [place.down for place in places]), (UP, [place.up for place in places])):
            for factor, values in zip(
                factors, cut(parameters[name], [factor.shape for factor in factors]), strict=True
            ):
                factor.copy_(values)

    @contextmanager
    def rows(self, speakers: Sequence[SpeakerParameters], sizes: Sequence[int]) -> Iterator[None]:
        """Within it the first `sizes[0]` rows of a batch are computed with the first speaker's adapter, and so on.

        Raises:
            PqmError: within it, if a layer does not see all rows at once.
        """
        forwards = []
        for (name, place), (down, up) in zip(self._places.items(), self._by_row(speakers, sizes), strict=True):
            forward = by_row(name, place.layer, down, up * place.scale, place.dropout)
            forwards.append((place.around, _of_all_rows(name, forward, sum(sizes))))
        with replaced_forwards(forwards):
            yield

    def _by_row(self, speakers: Sequence[SpeakerParameters], sizes: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Both factors of each place by row, (rows, rank, in, …) and (rows, out, rank, …)."""
        downs, ups = (
            # Not gathered by an index: on a GPU the sums of its gradients would be in an order by chance.
            torch.cat([one[name].expand(size, -1) for one, size in zip(speakers, sizes, strict=True)])
            for name in (DOWN, UP)
        )
        places = self._places.values()
        return zip(
            cut(downs, [place.down.shape for place in places]),
            cut(ups, [place.up.shape for place in places]),
            strict=True,
        )


def _learning(module: Any) -> Iterator[_Place]:
    for adapter in module.active_adapters if isinstance(module, library.LoraLayer) else ():
        # Adapters on embeddings have other factors, which cannot differ from row to row.
        if adapter in module.lora_A and module.lora_A[adapter].weight.requires_grad:
            down, up = module.lora_A[adapter].weight, module.lora_B[adapter].weight
            yield _Place(module, down, up, float(module.scaling[adapter]), module.lora_dropout[adapter])


def _of_all_rows(name: str, forward: Forward, n_rows: int) -> Forward:
    def checked(x: Tensor) -> Tensor:
        if len(x) != n_rows:
            raise PqmError(
                f"{name} gets {len(x)} of {n_rows} rows at a time, so speakers cannot share a batch: "
                "leave it out of lora.targets, or use --speakers_per_batch 1"
            )
        return forward(x)

    return checked
