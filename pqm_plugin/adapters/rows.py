"""Several adapters around one network: loaded once, and in a batch each row with its own."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import layer as lora
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from pqm_plugin.adapters.files import load_adapter
from pqm_plugin.adapters.lora import switched_off
from pqm_plugin.errors import PqmError


class AdapterBank:
    """Adapters of one frozen network, loaded when they are first asked for; those longest unused make room."""

    def __init__(self, network: nn.Module, base_sha256: str, capacity: int = 64) -> None:
        """Hold at most `capacity` adapters in memory, or as many as one batch needs."""
        self._network = network
        self._base_sha256 = base_sha256
        self._capacity = capacity
        self._names: OrderedDict[Path, str] = OrderedDict()
        self._n_loaded = 0
        self.model: PeftModel | None = None

    def load(self, folders: Sequence[Path]) -> list[Path]:
        """Make these adapters ready and return those that were not yet.

        Raises:
            PqmError: if one was made for another base, or is damaged.
        """
        fresh = [folder for folder in dict.fromkeys(folders) if folder not in self._names]
        for folder in dict.fromkeys(folders):
            if folder in fresh:
                name = f"row{self._n_loaded}"
                self.model = load_adapter(self.model or self._network, folder, self._base_sha256, name=name)
                self.model.eval()
                self._n_loaded += 1
                self._names[folder] = name
            self._names.move_to_end(folder)
        while len(self._names) > max(self._capacity, len(set(folders))) and self.model is not None:
            self.model.delete_adapter(self._names.popitem(last=False)[1])
        return fresh

    @contextmanager
    def rows(self, folders: Sequence[Path]) -> Iterator[None]:
        """Within it, row i of a batch is computed with the adapter in `folders[i]`; none where `folders` is empty.

        A batch may have a multiple of so many rows, as in a beam search: each adapter then has as many in a row.
        """
        self.load(folders)
        names = [self._names[folder] for folder in folders]
        if self.model is None or not names:
            yield
            return
        self.model.set_adapter(names[0])
        if len(set(names)) == 1:
            yield
        else:
            with _by_row(self.model, names):
                yield

    def without(self) -> AbstractContextManager[None]:
        """Within it the network computes as if it had no adapter."""
        return switched_off(self.model) if self.model is not None else nullcontext()


@contextmanager
def _by_row(model: PeftModel, names: Sequence[str]) -> Iterator[None]:
    """Replace the forward of every LoRA layer by one over stacked low-rank factors."""
    layers: list[Any] = [module for module in model.modules() if isinstance(module, lora.LoraLayer)]
    try:
        for layer in layers:
            vars(layer)["forward"] = _forward(layer, names)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def _forward(layer: Any, names: Sequence[str]) -> Callable[..., Tensor]:
    """The layer's forward with factors stacked over rows; ranks that differ are filled up with zeros.

    Source: Chen et al. 2023 (Punica), section 3: gathered low-rank products.
    """
    convolves = isinstance(layer, lora.Conv1d)
    if not (convolves or isinstance(layer, lora.Linear)):
        raise PqmError(f"adapters on {type(layer).__name__} layers cannot share a batch: set decode.batch_size to 1")
    down = pad_sequence([layer.lora_A[name].weight.detach() for name in names], batch_first=True)
    scaled = [layer.lora_B[name].weight.detach().flatten(1).T * layer.scaling[name] for name in names]
    up = pad_sequence(scaled, batch_first=True)  # (rows, rank, out)
    add = _add_convolved if convolves else _add_projected

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        repeats, rest = divmod(len(x), len(names))
        if rest or not repeats:
            raise ValueError(f"a batch of {len(x)} rows for {len(names)} adapters")
        result = layer.base_layer(x, *args, **kwargs)
        return add(result, x, down, up, layer.base_layer)

    return forward


def _add_projected(result: Tensor, x: Tensor, down: Tensor, up: Tensor, base: nn.Module) -> Tensor:
    """`x` (rows, …, in), `down` (adapters, rank, in), `up` (adapters, rank, out); rows of one adapter are together."""
    flat = x.reshape(len(down), -1, x.shape[-1])
    return result + torch.bmm(torch.bmm(flat, down.mT), up).reshape(result.shape)


def _add_convolved(result: Tensor, x: Tensor, down: Tensor, up: Tensor, base: Any) -> Tensor:
    """`x` (rows, in, T), `down` (adapters, rank, in, width): every row is a group of one convolution."""
    repeats = len(x) // len(down)
    down, up = down.repeat_interleave(repeats, 0), up.repeat_interleave(repeats, 0)
    rows, rank = down.shape[:2]
    inner = functional.conv1d(
        x.reshape(1, -1, x.shape[-1]), down.flatten(0, 1), None, base.stride, base.padding, base.dilation, groups=rows
    )
    return result + torch.bmm(up.mT, inner.reshape(rows, rank, -1))
