"""A packed model on disk: one safetensors file that needs neither the float model nor unpickling."""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pqm_plugin.errors import PqmError
from pqm_plugin.files import whole_file
from pqm_plugin.quantize.layers import install, packed_layers
from pqm_plugin.quantize.packed import PackedTensor, WeightFormat

FORMAT_VERSION = 1
REST_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def save_packed(
    path: Path, network: nn.Module, rest_dtype: str = "bfloat16", built_in: Collection[str] = frozenset()
) -> None:
    """Write the packed weights and everything else that `network` needs.

    Args:
        rest_dtype: `float32`, `bfloat16` or `float16`, for parameters that are not quantised (biases, norms). Buffers
            (batch statistics, filter banks) keep their own precision: they are few, and rounding them shifts features.
        built_in: parameters that every freshly built network of this architecture has already; they are not stored.

    Raises:
        ValueError: if `load_packed` gave the network its weights in a mode that keeps no codes.
    """
    layers = packed_layers(network)
    tensors: dict[str, Tensor] = {}
    shared: dict[int, str] = {}
    table: dict[str, dict[str, Any]] = {}
    for name, layer in layers.items():
        pack = layer.packed
        owner = shared.setdefault(id(pack), name)
        if owner == name:
            table[name] = {"shape": list(pack.shape), **_changed_fields(pack.weight_format)}
            tensors |= {f"{name}.weight.{key}": value for key, value in pack.stored().items()}
        else:
            table[name] = {"same_as": owner}
    parameters = dict(network.named_parameters(remove_duplicate=False))
    owners: dict[tuple[int, torch.Size], str] = {}
    tied: dict[str, str] = {}
    for name, tensor in rest_of_state(network).items():
        owner = owners.setdefault((tensor.data_ptr(), tensor.shape), name) if tensor.numel() else name
        if owner != name:
            tied[name] = owner
        elif name not in built_in:
            stored = tensor.to(REST_DTYPES[rest_dtype]) if name in parameters and tensor.is_floating_point() else tensor
            tensors[name] = stored.clone().contiguous()
    # One key: safetensors writes several in an order that changes from run to run.
    header = {"format_version": FORMAT_VERSION, "layers": table, "tied": tied, "built_in": sorted(built_in)}
    metadata = {"pqm": json.dumps(header)}
    with whole_file(path) as scratch:
        save_file({name: tensor.cpu() for name, tensor in tensors.items()}, scratch, metadata=metadata)


def _changed_fields(weight_format: WeightFormat) -> dict[str, Any]:
    default = asdict(WeightFormat())
    return {key: value for key, value in asdict(weight_format).items() if value != default[key]}


def rest_of_state(network: nn.Module) -> dict[str, Tensor]:
    """The state of `network` without the packed weights."""
    inside = tuple(f"{name}.packed." for name in packed_layers(network))
    return {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(inside)}


def load_packed(path: Path, network: nn.Module, mode: str = "exact") -> None:
    """Give a freshly built float `network` the weights of a packed file, in place.

    Mode `exact` computes with what is unpacked here, and keeps no codes beside it.

    Raises:
        PqmError: if the file is missing, damaged, of another format version, or its tensors and the network's do not
            match name by name and shape by shape.
    """
    if not path.is_file():
        raise PqmError(f"{path} is missing: run stage 3 (quantize) first")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("pqm", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise PqmError(f"{path} is damaged ({error}): run stage 3 (quantize) again") from error
    if header.get("format_version") != FORMAT_VERSION:
        raise PqmError(
            f"{path} has format version {header.get('format_version')}, this program reads {FORMAT_VERSION}: "
            "run stage 3 (quantize) again"
        )
    _install_all(path, network, tensors, header["layers"], mode)
    tensors |= {name: tensors[owner] for name, owner in header.get("tied", {}).items() if owner in tensors}
    _load_rest(path, network, tensors, header.get("built_in", ()))
    if mode != "small":
        for layer in packed_layers(network).values():
            layer.packed.let_go()


def _install_all(
    path: Path, network: nn.Module, tensors: dict[str, Tensor], table: Mapping[str, dict[str, Any]], mode: str
) -> None:
    modules = dict(network.named_modules())
    packs: dict[str, PackedTensor] = {}
    for name, entry in table.items():
        if name not in modules or not isinstance(getattr(modules[name], "weight", None), Tensor):
            raise PqmError(f"{path}: layer {name} is unknown to the model of this configuration")
        try:
            packs[name] = packs[entry["same_as"]] if "same_as" in entry else _take(name, dict(entry), tensors)
            install(modules[name], packs[name], mode)
        except (KeyError, ValueError, TypeError) as error:
            raise PqmError(f"{path}: packed weight of {name} is missing or unfit ({error})") from error


def _take(name: str, entry: dict[str, Any], tensors: dict[str, Tensor]) -> PackedTensor:
    shape = torch.Size(entry.pop("shape"))
    weight_format = WeightFormat(**entry)
    keys = PackedTensor.expected_tensors(shape, weight_format)
    return PackedTensor({key: tensors.pop(f"{name}.weight.{key}") for key in keys}, shape, weight_format)


def _load_rest(path: Path, network: nn.Module, tensors: Mapping[str, Tensor], built_in: Collection[str]) -> None:
    state = {name: tensor for name, tensor in rest_of_state(network).items() if name not in built_in}
    missing, unknown = sorted(state.keys() - tensors.keys()), sorted(tensors.keys() - state.keys())
    if missing or unknown:
        raise PqmError(f"{path} does not fit this model: missing {missing[:5]}, unknown {unknown[:5]}")
    for name, target in state.items():
        if target.shape != tensors[name].shape:
            raise PqmError(f"{path}: {name} has shape {tuple(tensors[name].shape)}, the model {tuple(target.shape)}")
        target.copy_(tensors[name])
