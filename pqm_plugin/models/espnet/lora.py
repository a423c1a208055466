"""LoRA that ESPnet trained with loralib: made a plain PEFT folder, or taken for what ESPnet has merged already."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pqm_plugin.errors import PqmError
from pqm_plugin.files import write_text
from pqm_plugin.models.espnet import folder as espnet_folder

_log = logging.getLogger(__name__)
_DOWN, _UP = ".lora_A", ".lora_B"
_OF_ESPNET = {"rank": 8, "alpha": 8, "dropout_rate": 0.0, "bias_type": "none"}
"""ESPnet's defaults of what `adapter_conf` may leave out."""
# Weights that were merged and taken apart again differ in their last bits.
_SAME = 1e-4


def adapter_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration says of its adapter; empty if it has none.

    Raises:
        PqmError: if it is no LoRA.
    """
    if not config.get("use_adapter"):
        return {}
    kind = config.get("adapter", "lora")
    if kind != "lora":
        raise PqmError(f"an ESPnet model with the adapter {str(kind)[:40]!r}: of ESPnet's adapters only lora is known")
    settings = _OF_ESPNET | dict(config.get("adapter_conf") or {})
    return settings | {"save_strategy": config.get("save_strategy", "all")}


def to_peft(source: Path, base: Path | None, out: Path) -> bool:
    """Write ESPnet's LoRA as a PEFT folder; False if `source` is none.

    Args:
        source: an experiment folder, or one of its `.pth` files with `config.yaml` beside it.
        base: the float model that it was trained on, as a base folder. A checkpoint of the whole model is compared
            with it, for ESPnet trains all weights beside its LoRA unless `freeze_param` says otherwise.
        out: an existing folder.

    Raises:
        PqmError: if more than the LoRA was trained, the base is needed and not given, or the file is damaged.
    """
    folder = source if source.is_dir() else source.parent
    if not (folder / espnet_folder.CONFIG).is_file() or (source.is_file() and source.suffix != ".pth"):
        return False
    settings = adapter_settings(espnet_folder.read_config(folder))
    if not settings:
        return False
    path = espnet_folder.weights_file(source) if source.is_dir() else source
    state = espnet_folder.read_weights(path)
    layers = _layers(path, state)
    scale = float(settings["alpha"]) / next(iter(layers.values()))[0].shape[0]
    _check_rest(path, state, layers, scale, base)
    if ".ave" in path.name and len(state) == 2 * len(layers):
        _log.warning("%s averages the factors of several epochs, whose product is no average: give one epoch", path)
    tensors = {
        f"base_model.model.{name}.lora_{part}.weight": factor.float().contiguous().clone()
        for name, pair in layers.items()
        for part, factor in zip("AB", pair, strict=True)
    }
    save_file(tensors, out / "adapter_model.safetensors", metadata={"format": "pt"})
    rank = next(iter(layers.values()))[0].shape[0]
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": scale * rank, "bias": "none", "inference_mode": True}
    dropout = {"lora_dropout": float(settings["dropout_rate"]), "target_modules": sorted(layers)}
    write_text(out / "adapter_config.json", json.dumps(config | dropout, indent=2) + "\n")
    return True


def _layers(path: Path, state: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    names = sorted({name.removesuffix(_DOWN).removesuffix(_UP) for name in state if name.endswith((_DOWN, _UP))})
    try:
        layers = {name: (state[name + _DOWN], state[name + _UP]) for name in names}
    except KeyError as error:
        raise PqmError(f"{path} lacks {error}: a LoRA has two factors a layer; copy the file again") from error
    if not layers:
        raise PqmError(f"{path} holds no LoRA, though its configuration says so: give the checkpoint of the adapter")
    ranks = {len(down) for down, _ in layers.values()}
    if len(ranks) > 1:
        raise PqmError(f"{path} has ranks {sorted(ranks)}, and ESPnet makes one: copy the file again")
    return layers


def _check_rest(
    path: Path, state: Mapping[str, Tensor], layers: Mapping[str, Any], scale: float, base: Path | None
) -> None:
    """See that what a checkpoint holds beside the LoRA is the base, its adapted weights merged or not."""
    rest = {name: value for name, value in state.items() if not name.endswith((_DOWN, _UP))}
    if not rest:
        return
    if base is None:
        raise PqmError(
            f"{path} holds {len(rest)} further weights, which ESPnet may have trained, too: give --base with the float "
            "model that the training began with, to compare them"
        )
    before = espnet_folder.read_weights(espnet_folder.weights_file(base))
    for name, value in rest.items():
        if name not in before or before[name].shape != value.shape:
            raise PqmError(f"{path}: {name} is not in {base}: it is the adapter of another model")
        wanted = [before[name]]
        layer = name.removesuffix(".weight")
        if layer in layers:
            down, up = layers[layer]
            wanted.append(before[name] + scale * up @ down)
        if not any(_is_same(value, each) for each in wanted):
            raise PqmError(
                f"{path}: {name} is neither that of the base nor the base with the LoRA merged: more than the LoRA was "
                "trained (freeze_param was not set), or several epochs are averaged: give one epoch, or quantize "
                "this experiment as a model of its own"
            )


def _is_same(value: Tensor, wanted: Tensor) -> bool:
    if not value.is_floating_point():
        return torch.equal(value, wanted)
    room = _SAME * max(1e-3, float(wanted.abs().max()) if wanted.numel() else 0.0)
    return bool((value.float() - wanted.float()).abs().max() <= room) if value.numel() else True


def without_adapter(
    source: Path, config: dict[str, Any], state: Mapping[str, Tensor]
) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
    """Configuration and weights of a model that ESPnet trained with a LoRA: merged, as it decodes them.

    ESPnet saves a model in evaluation, where loralib has added the product to the weights.

    Raises:
        PqmError: if the checkpoint holds the adapter alone.
    """
    settings = adapter_settings(config)
    if not settings:
        return config, state
    layers = _layers(source, state)
    kept = {name: value for name, value in state.items() if not name.endswith((_DOWN, _UP))}
    if not all(f"{name}.weight" in kept for name in layers) or settings["save_strategy"] != "all":
        raise PqmError(
            f"{source} is a LoRA without its base (save_strategy: {settings['save_strategy']}), not a model: quantize "
            f"the model that it was trained on, and take it in with `pqm adopt MODEL {source} --speaker NAME`"
        )
    _log.info("%s: its LoRA is merged, as ESPnet saved it", source)
    plain = {name: value for name, value in config.items() if name not in ("adapter", "adapter_conf")}
    return plain | {"use_adapter": False}, kept
