"""What an adapter's files may say before peft reads them: they can be a stranger's."""

import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from pqm_plugin.adapters import library
from pqm_plugin.adapters.names import CONFIG, WEIGHTS
from pqm_plugin.errors import PqmError

_MOST_RANK = 1024
_FLOATS = ("F32", "F16", "BF16")
# What peft writes beside the adapter's shape, and does not act upon when it puts a LoRA around a given network.
_HARMLESS = ("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "task_type")

_USUAL: Mapping[str, Any] = {
    "bias": "none",
    "init_lora_weights": True,
    "megatron_core": "megatron.core",
    "qalora_group_size": 16,
}
"""What peft writes of settings that were not made: peft itself, which knows, takes seconds to import."""


def check_adapter(folder: Path) -> Mapping[str, Any]:
    """Give the configuration of a plain LoRA whose weights have the shape that it says, and refuse all else.

    peft would import a module that a configuration names (`megatron_core`), read pickled weights where there are no
    others, and make tensors of any rank before it looks at the file.

    Raises:
        PqmError: naming the file and what is wrong with it.
    """
    config = _checked_config(folder / CONFIG)
    rank: int = config["r"]
    path = folder / WEIGHTS
    try:
        with safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}
            shapes = {name: (found.get_shape(), found.get_dtype()) for name, found in slices.items()}
    except (SafetensorError, OSError, ValueError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise PqmError(f"{folder} is damaged ({path.name}: {reason}): delete it and make or fetch it again") from error
    for name, (shape, dtype) in shapes.items():
        if not name.endswith((".lora_A.weight", ".lora_B.weight")) or dtype not in _FLOATS:
            raise _wrong(path, f"holds {name[:80]!r} of type {dtype}, which is no part of a LoRA")
        if len(shape) < 2 or shape[0 if "lora_A" in name else 1] != rank:
            raise _wrong(path, f"{name[:80]!r} of shape {tuple(shape)} is not of rank {rank}")
    if not shapes:
        raise _wrong(path, "holds no weights")
    return config


def _checked_config(path: Path) -> Mapping[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _wrong(path, f"cannot be read ({str(error)[:80]})") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise _wrong(path, "is not of a LoRA")
    rank, alpha, dropout = (config.get(name) for name in ("r", "lora_alpha", "lora_dropout"))
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= _MOST_RANK:
        raise _wrong(path, f"has the rank {str(rank)[:20]}, allowed are 1 to {_MOST_RANK}")
    if not _is_finite(alpha) or not _is_finite(dropout) or not 0 <= float(dropout) < 1:  # type: ignore[arg-type]
        raise _wrong(path, "has no usable lora_alpha and lora_dropout")
    targets = config.get("target_modules")
    if not isinstance(targets, list) or not all(isinstance(name, str) for name in targets) or not targets:
        raise _wrong(path, "names its target_modules not one by one")
    _refuse_others(path, config)
    return config


def _refuse_others(path: Path, config: Mapping[str, Any]) -> None:
    known = ("peft_type", "r", "lora_alpha", "lora_dropout", "target_modules", *_HARMLESS)
    for name, value in config.items():
        usual = name in known or value in (None, False, {}, []) or value == _USUAL.get(name)
        if not usual and value != _defaults().get(name):
            raise _wrong(path, f"sets {name[:60]!r}, which no adapter of this project has")


@functools.cache
def _defaults() -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(json.dumps(library.LoraConfig().to_dict(), default=str))
    return found


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9 and math.isfinite(value)


def _wrong(path: Path, what: str) -> PqmError:
    return PqmError(f"{path} {what}: delete {path.parent} and make or fetch it again")
