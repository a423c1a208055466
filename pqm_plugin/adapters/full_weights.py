"""Weights of a speaker that are not in PEFT's format: a whole copy of the model, or the LoRA of its toolkit.

These are controls of the adapters: the same speech and training, but other weights are trained. On disk they are one
safetensors file beside `pqm.json`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pqm_plugin.adapters.files import AdapterInfo, read_info_for, write_info
from pqm_plugin.adapters.options import OWN_WEIGHTS
from pqm_plugin.errors import PqmError
from pqm_plugin.files import whole_folder
from pqm_plugin.records import changed


def whole_model(network: nn.Module) -> dict[str, Tensor]:
    """Every tensor that makes `network` what it is, each once, as it is now and as it will be after every change."""
    shared: set[tuple[int, torch.Size]] = set()
    found = {}
    for name, tensor in network.state_dict().items():
        place = (tensor.data_ptr(), tensor.shape)
        if not tensor.numel() or place not in shared:
            found[name] = tensor
            shared.add(place)
    return found


def toolkit_lora(network: nn.Module) -> dict[str, Tensor]:
    """The factors of a toolkit's own LoRA in `network`, as they are now and as they will be after every change."""
    return {name: tensor for name, tensor in network.state_dict().items() if "lora_" in name}


def save_full_weights(folder: Path, tensors: Mapping[str, Tensor], info: AdapterInfo) -> None:
    """Write a speaker's weights as a whole folder; the same weights give the same bytes."""
    with whole_folder(folder) as scratch:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, scratch / OWN_WEIGHTS)
        write_info(scratch, info)


class WeightSwapper:
    """The weights of one speaker after another in one network; see `AdapterBank`, which has several in one batch."""

    def __init__(
        self, network: nn.Module, base_sha256: str, tensors: Mapping[str, Tensor], asked: Mapping[str, Any]
    ) -> None:
        """Put speakers' weights into `tensors` of the network, which must have been made as `asked`, see `load`."""
        self.model = network
        self._base_sha256 = base_sha256
        self._tensors = tensors
        self._asked = asked
        self._base = {name: tensor.clone() for name, tensor in tensors.items()}
        self._inside: Path | None = None

    def load(self, folders: Sequence[Path]) -> list[Path]:
        """Put the weights of the one speaker in `folders` into the network; return the folder if they were not yet.

        Raises:
            PqmError: if they were made for another base, with other settings than `asked`, or do not fit.
        """
        [folder] = dict.fromkeys(folders)
        if folder == self._inside:
            return []
        made = read_info_for(folder, self._base_sha256).request
        if differing := changed(made, self._asked):
            raise PqmError(f"{folder} was made with another {', '.join(differing)}: run stage 5 (adapt) again")
        self._put(self._read(folder / OWN_WEIGHTS))
        self._inside = folder
        return [folder]

    @contextmanager
    def rows(self, folders: Sequence[Path]) -> Iterator[None]:
        """Within it, every row of a batch is computed with the weights in `folders`, which must be one speaker's."""
        self.load(folders)
        yield

    @contextmanager
    def without(self) -> Iterator[None]:
        """Within it the network computes with the weights of its base."""
        inside = {name: tensor.clone() for name, tensor in self._tensors.items()}
        self._put(self._base)
        try:
            yield
        finally:
            self._put(inside)

    def _read(self, path: Path) -> dict[str, Tensor]:
        try:
            with safe_open(path, framework="pt") as file:
                found = {name: file.get_tensor(name) for name in file.keys()}
        except (SafetensorError, OSError) as error:
            raise PqmError(
                f"{path} is damaged ({error}): delete {path.parent} and run stage 5 (adapt) again"
            ) from error
        wrong = [
            name
            for name in sorted(self._tensors.keys() | found.keys())
            if name not in found or name not in self._tensors or found[name].shape != self._tensors[name].shape
        ]
        if wrong:
            raise PqmError(f"{path} does not fit this base ({wrong[0]} and {len(wrong) - 1} more): run stage 5 again")
        return found

    def _put(self, values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in self._tensors.items():
                tensor.copy_(values[name])
