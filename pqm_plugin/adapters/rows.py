"""Several adapters around one network: loaded once, and in a batch each row with its own."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pqm_plugin.adapters.factors import Factors, Layout, read_factors, stacked
from pqm_plugin.devices import device_of
from pqm_plugin.errors import PqmError

LIMIT_BYTES = 2**28
"""Memory that adapters may take by default: 1,000 of 67,000 parameters, or 57 of 1 % of a base of 116 million."""
_CONVOLUTIONS: Mapping[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv1d: functional.conv1d,
    nn.Conv2d: functional.conv2d,
}
Forward = Callable[..., Tensor]


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
        self._layouts: dict[Layout, Layout] = {}
        self._layers: dict[str, nn.Module] = {}
        self.held_bytes = 0

    def __len__(self) -> int:
        """Adapters that are in memory."""
        return len(self._held)

    def load(self, folders: Sequence[Path]) -> list[Path]:
        """Make these adapters ready and return those that were not yet.

        Raises:
            PqmError: if one was made for another base, is damaged, or does not fit the network.
        """
        wanted = list(dict.fromkeys(folders))
        fresh = [folder for folder in wanted if folder not in self._held]
        for folder in wanted:
            if folder not in self._held:
                self._held[folder] = self._read(folder)
                self.held_bytes += self._held[folder].size_bytes
            self._held.move_to_end(folder)
        while self.held_bytes > self._limit_bytes and len(self._held) > len(wanted):
            self.held_bytes -= self._held.popitem(last=False)[1].size_bytes
        return fresh

    @contextmanager
    def rows(self, folders: Sequence[Path]) -> Iterator[None]:
        """Within it, row i of a batch is computed with the adapter in `folders[i]`; with none where `folders` is empty.

        A batch may have a multiple of so many rows, as in a beam search: each adapter then has as many in a row.
        """
        self.load(folders)
        forwards = self._forwards([self._held[folder] for folder in folders])
        before = {name: vars(layer).get("forward") for name, layer in self._layers.items()}
        try:
            for name, layer in self._layers.items():
                set_forward(layer, forwards.get(name))
            yield
        finally:
            for name, layer in self._layers.items():
                set_forward(layer, before.get(name))

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
        if not adapters:
            return {}
        first = adapters[0]
        if all(adapter is first for adapter in adapters):
            return {name: _alone(self._layers[name], *pair, first.scale) for name, pair in first.layers().items()}
        layers = stacked(adapters)
        return {name: by_row(name, self._layers[name], *pair) for name, pair in layers.items()}

    def without(self) -> AbstractContextManager[None]:
        """Within it the network computes as if it had no adapter."""
        return self.rows([])


def set_forward(layer: nn.Module, forward: Forward | None) -> None:
    """Give `layer` a forward of its own, or, with None, that of its class."""
    if forward is None:
        vars(layer).pop("forward", None)
    else:
        vars(layer)["forward"] = forward


def _layer(network: nn.Module, folder: Path, name: str, shape: tuple[int, ...]) -> nn.Module:
    """The layer that an adapter names, whose weight must have `shape`."""
    try:
        layer: Any = network.get_submodule(name)
    except AttributeError:
        raise PqmError(f"{folder} adapts {name[:80]!r}, which this model has not: decode with its own base") from None
    if not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d) or getattr(layer, "groups", 1) != 1:
        raise PqmError(f"{folder} adapts {name}: adapters on {type(layer).__name__} layers are not known here")
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
    name: str, layer: nn.Module, down: Tensor, up: Tensor, heard: Callable[[Tensor], Tensor] = _as_it_is
) -> Forward:
    """The forward of `layer` with an adapter for each row.

    Args:
        name: what an error calls the layer.
        down: (rows, rank, in, …).
        up: (rows, out, rank, …), scaled.
        heard: what the adapter hears instead of what the layer does, such as dropout.

    Source: Chen et al. 2023 (Punica), section 3: gathered low-rank products.
    """
    plain = type(layer).forward
    add = _add_projected if isinstance(layer, nn.Linear) else _add_convolved

    def forward(x: Tensor) -> Tensor:
        repeats, rest = divmod(len(x), len(down))
        if rest or not repeats:
            raise ValueError(f"{name}: a batch of {len(x)} rows for {len(down)} adapters")
        result: Tensor = plain(layer, x)
        return add(result, heard(x.to(down.dtype)), down, up, layer).to(result.dtype)

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
