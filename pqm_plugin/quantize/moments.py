"""What the layers of a network hear: second moments of their inputs, taken while the network runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn import functional

_MAX_POSITIONS = 512
"""Positions of one call that count, evenly spaced: neighbours hear nearly the same."""


class Moments:
    """Second moments of the inputs of layers, gathered call after call.

    `gram[layer]` is float32 (G, K, K), the sum over positions of outer products of the input of each of G groups, K
    values long (for convolutions: of the patch under the kernel). Layers that hear the same tensor share one.
    """

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        self._network = network
        self._names = names
        self._owner: dict[str, str] = {}
        self._heard: dict[tuple[object, ...], tuple[Tensor, str]] = {}
        self._grams: dict[str, Tensor] = {}

    def gram(self, name: str) -> Tensor | None:
        """The moments of a layer; None if it was never called."""
        return self._grams.get(self._owner.get(name, name))

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Listen to every call inside; one `with` a call of the whole network."""
        handles = [
            self._network.get_submodule(name).register_forward_pre_hook(
                lambda layer, inputs, name=name: self._hear(name, layer, inputs[0])
            )
            for name in self._names
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._heard.clear()

    def _hear(self, name: str, layer: nn.Module, given: Tensor) -> None:
        key = (id(given), *geometry(layer))
        # The tensor is held until the call ends, so that no other can have its id.
        _, owner = self._heard.setdefault(key, (given, name))
        if self._owner.setdefault(name, owner) != name:
            return
        rows = patches(layer, given)
        stride = -(-rows.shape[1] // _MAX_POSITIONS)
        rows = rows[:, ::stride]
        gram = rows.mT @ rows
        self._grams[name] = self._grams[name] + gram if name in self._grams else gram


def geometry(layer: nn.Module) -> tuple[object, ...]:
    """What beside its input decides which patches a layer hears."""
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
        raise ValueError(f"{type(layer).__name__} is no linear layer and no convolution")
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
