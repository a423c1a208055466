"""Adapters of plain PEFT, rewritten as this project writes them or refused; and adapters added to float weights."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pqm_plugin.adapters.bank import Factors
from pqm_plugin.adapters.options import CONFIG, WEIGHTS
from pqm_plugin.errors import PqmError
from pqm_plugin.files import write_json

_PREFIX = "base_model.model."
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
# Settings that change what a LoRA computes in a way that its two factors cannot express.
_OTHER_ARITHMETIC = {
    **dict.fromkeys(("lora_bias", "modules_to_save", "trainable_token_indices", "target_parameters"), ""),
    "use_dora": " (DoRA scales whole rows of the base's weights)",
    "layer_replication": " (the model has more layers than the base)",
    **dict.fromkeys(("alora_invocation_tokens", "arrow_config", "use_bdlora", "use_qalora"), ""),
    **dict.fromkeys(("kasa_config", "monteclora_config", "velora_config", "fan_in_fan_out"), ""),
}
# Beginnings that take something away from the base's weights, which is then in the adapter.
_CHANGES_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga", "mica", "kasa", "monteclora")
_REMEDY = "merge it into the float model (merge_and_unload), quantize that, and enrol, or give a plain LoRA"
# A pattern of a stranger's file may take for ever: no repeated groups, few repetitions.
_PATTERN, _MOST_REPEATED = re.compile(r"(?!.*[)][*+?{])(?!.*[(][?])[\w.^$|()\[\]*+?\\-]{1,300}"), 4
_MOST_RANK = 1024


def base_of(folder: Path) -> str:
    """What a PEFT adapter's configuration calls its base; empty where it says nothing.

    Raises:
        PqmError: if the folder holds no configuration of a LoRA.
    """
    return str(_config(folder).get("base_model_name_or_path") or "")


def rewrite(folder: Path, network: nn.Module, out: Path) -> int:
    """Write the LoRA of a PEFT folder into the folder `out`, its layers named one by one, one rank for all.

    Layers of other ranks (`rank_pattern`) are filled with zeros, other scales (`alpha_pattern`, rank-stabilised LoRA)
    go into the second factor.

    Args:
        network: what the adapter is for, float or packed.

    Returns:
        How many parameters the adapter has.

    Raises:
        PqmError: if the folder is damaged, names layers that the network does not have or has in another shape, or
            is more than a LoRA (DoRA, trained biases or embeddings), naming what it is.

    Source: Kalajdzievski 2023 (rank-stabilised LoRA): scale alpha / sqrt(r).
    """
    config = _config(folder)
    for name, why in _OTHER_ARITHMETIC.items():
        if config.get(name):
            raise PqmError(f"{folder / CONFIG}: {name} is set, which cannot be computed here{why}: {_REMEDY}")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        raise PqmError(
            f"{folder / CONFIG}: init_lora_weights is {start[:40]!r}, which changed the base's weights: save it again "
            "with save_pretrained(..., path_initial_model_for_weight_conversion=...), or " + _REMEDY
        )
    if config.get("bias", "none") != "none":
        raise PqmError(f"{folder / CONFIG}: trained biases (bias: {config['bias']}) cannot be computed here")
    layers = _layers(folder, network)
    ranks = {name: len(down) for name, (down, _) in layers.items()}
    rank, alpha = max(ranks.values()), _number(folder, config, "lora_alpha")
    scales = {name: _scale(folder, config, name, ranks[name]) for name in layers}
    # Where all layers agree, the factors are written as they are.
    alike = set(ranks.values()) == {rank} and len(set(scales.values())) == 1
    shared = next(iter(scales.values())) if alike else 1.0
    tensors: dict[str, Tensor] = {}
    for name, (down, up) in layers.items():
        missing = rank - ranks[name]
        up = up if alike else up * scales[name]
        tensors[f"{_PREFIX}{name}{_DOWN}"] = _padded(down, 0, missing)
        tensors[f"{_PREFIX}{name}{_UP}"] = _padded(up, 1, missing)
    save_file(tensors, out / WEIGHTS, metadata={"format": "pt"})
    kept = {key: config.get(key) for key in ("peft_type", "base_model_name_or_path", "peft_version", "task_type")}
    plain_alpha = alpha if alike and math.isclose(shared, alpha / rank) else shared * rank
    write_json(
        out / CONFIG,
        {
            **{key: value for key, value in kept.items() if value is not None},
            **{"r": rank, "lora_alpha": plain_alpha, "lora_dropout": float(config.get("lora_dropout") or 0.0)},
            **{"bias": "none", "inference_mode": True, "target_modules": sorted(layers)},
        },
    )
    return sum(tensor.numel() for tensor in tensors.values())


def _config(folder: Path) -> Mapping[str, Any]:
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PqmError(f"{path} cannot be read ({str(error)[:80]}): give the folder of a PEFT adapter") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = str(config.get("peft_type") if isinstance(config, dict) else None)[:20]
        raise PqmError(f"{path} is not of a LoRA ({kind}): only LoRA adapters are taken")
    return config


def _layers(folder: Path, network: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Both factors of each layer, float32, by the layer's name."""
    path = folder / WEIGHTS
    if not path.is_file():
        raise PqmError(f"{path} is missing: a pickled adapter is not read, save it again with safetensors")
    try:
        # accelerate and older versions write the adapter's own name, too.
        found = {name.replace(".default.weight", ".weight"): tensor.float() for name, tensor in load_file(path).items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise PqmError(f"{path} is damaged ({str(error)[:80]}): fetch it again") from error
    for name in found:
        if not name.startswith(_PREFIX) or not name.endswith((_DOWN, _UP)):
            raise PqmError(f"{path}: {name[:80]!r} is not a factor of a plain LoRA, and nothing else is taken")
    names = sorted({name.removeprefix(_PREFIX).removesuffix(_DOWN).removesuffix(_UP) for name in found})
    if not names:
        raise PqmError(f"{path} holds no weights")
    layers = {}
    for name in names:
        factors = tuple(found.get(f"{_PREFIX}{name}{end}") for end in (_DOWN, _UP))
        if factors[0] is None or factors[1] is None:
            raise PqmError(f"{path}: {name[:80]!r} has only one of its two factors: fetch the adapter again")
        layers[name] = _checked(path, network, name, factors[0], factors[1])
    return layers


def _checked(path: Path, network: nn.Module, name: str, down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    try:
        layer = network.get_submodule(name)
    except AttributeError:
        raise PqmError(f"{path}: the model has no layer {name[:80]!r}: it is the adapter of another model") from None
    inner: tuple[int, ...]
    outer: tuple[int, ...]
    if isinstance(layer, nn.Conv1d) and layer.groups == 1:
        inner, outer = (layer.in_channels, *layer.kernel_size), (1,)
        wanted = (layer.in_channels, layer.out_channels)
    elif isinstance(layer, nn.Linear):
        inner, outer = (layer.in_features,), ()
        wanted = (layer.in_features, layer.out_features)
    else:
        raise PqmError(
            f"{path}: {name[:80]!r} is no linear layer and no plain convolution: only adapters of these are taken"
        )
    rank = len(down) if down.ndim else 0
    if not 1 <= rank <= _MOST_RANK or down.shape[1:] != inner or up.shape != (wanted[1], rank, *outer):
        given = f"{tuple(down.shape)} and {tuple(up.shape)}"
        raise PqmError(f"{path}: {name} takes {wanted[0]} and gives {wanted[1]} values, its factors are {given}")
    if not bool(torch.isfinite(down).all() and torch.isfinite(up).all()):
        raise PqmError(f"{path}: {name} holds values that are not numbers: fetch the adapter again")
    return down, up


def _scale(folder: Path, config: Mapping[str, Any], layer: str, rank: int) -> float:
    alpha = _number(
        folder, {"lora_alpha": _of_pattern(folder, config, "alpha_pattern", layer, config.get("lora_alpha"))}
    )
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _of_pattern(folder: Path, config: Mapping[str, Any], key: str, layer: str, default: Any) -> Any:
    """The value of the first pattern that is the layer's name or its end, as peft looks it up.

    Raises:
        PqmError: if a pattern is one that could take for ever.
    """
    for pattern, value in (config.get(key) or {}).items():
        n_repeated = sum(pattern.count(sign) for sign in "*+?")
        if not _PATTERN.fullmatch(pattern) or n_repeated > _MOST_REPEATED:
            raise PqmError(
                f"{folder / CONFIG}: {key} has {pattern[:60]!r}, which is not a layer's name or a simple pattern of "
                "names: write the layers' names there"
            )
        try:
            if re.match(rf"(.*\.)?({pattern})$", layer):
                return value
        except re.error as error:
            raise PqmError(f"{folder / CONFIG}: {key} has {pattern[:60]!r}, which is no pattern ({error})") from error
    return default


def _number(folder: Path, config: Mapping[str, Any], key: str = "lora_alpha") -> float:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or abs(value) > 1e9:
        raise PqmError(f"{folder / CONFIG} has no usable {key} ({str(value)[:20]})")
    return float(value)


def _padded(factor: Tensor, dim: int, n: int) -> Tensor:
    if not n:
        return factor.contiguous()
    shape = list(factor.shape)
    shape[dim] = n
    return torch.cat([factor, factor.new_zeros(shape)], dim).contiguous()


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


def _has(module: nn.Module, weight: Tensor) -> bool:
    return any(parameter is weight for parameter in module.parameters(recurse=False))
