"""Adapters on disk: PEFT folders with a file that names their base, checked before peft reads them."""

import contextlib
import functools
import json
import logging
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from pqm_plugin.adapters import library
from pqm_plugin.adapters.options import CONFIG, INFO, OWN_WEIGHTS, WEIGHTS
from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json, whole_folder, write_json, write_text
from pqm_plugin.records import answers_or_says

if TYPE_CHECKING:
    from torch import nn

_log = logging.getLogger(__name__)
FORMAT_VERSION = 1

_KINDS = {"base_sha256": str, "trained_on": str, "best_epoch": int, "request": Mapping, "log": Sequence}


@dataclass(frozen=True)
class AdapterInfo:
    """What an adapter is: `base_sha256` hashes the weights file of its base, `request` is what it was asked to be.

    `toolkit_trains` is how many parameters a toolkit would have trained where this one was made with its layers.
    """

    base_sha256: str
    trained_on: str
    parameters: int
    base_parameters: int
    best_epoch: int
    request: Mapping[str, Any] = field(default_factory=dict)
    log: Sequence[Any] = ()
    format_version: int = FORMAT_VERSION
    toolkit_trains: int = 0


def save_adapter(folder: Path, model: "library.PeftModel", info: AdapterInfo) -> None:
    """Write the active adapter as a whole folder; the same adapter gives the same bytes."""
    with whole_folder(folder) as scratch:
        with _no_model_card(model):
            model.save_pretrained(str(scratch))
        config = json.loads((scratch / CONFIG).read_text(encoding="utf-8"))
        # peft keeps targets as a set, whose order changes from run to run.
        config["target_modules"] = sorted(config["target_modules"])
        write_json(scratch / CONFIG, config)
        write_info(scratch, info)


def write_info(folder: Path, info: AdapterInfo) -> None:
    """Write what is known of an adapter beside its weights, and the log of its training as a table."""
    known = asdict(info)
    write_json(folder / INFO, {key: value for key, value in known.items() if value or key != "toolkit_trains"})
    write_text(folder / "train.tsv", _table([asdict(row) for row in info.log]))


@contextlib.contextmanager
def _no_model_card(model: "library.PeftModel") -> Iterator[None]:
    """Keep peft from writing a README.md of placeholders, which takes longer than all the rest."""
    vars(model)["create_or_update_model_card"] = lambda folder: None
    try:
        yield
    finally:
        del vars(model)["create_or_update_model_card"]


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = ["\t".join(rows[0])] if rows else []
    lines += ["\t".join(f"{value:g}" for value in row.values()) for row in rows]
    return "".join(f"{line}\n" for line in lines)


def read_info(folder: Path) -> AdapterInfo:
    """What is known of an adapter.

    Raises:
        PqmError: if the folder is not an adapter of this project, or of another format version.
    """
    if not any((folder / name).is_file() for name in (WEIGHTS, OWN_WEIGHTS)):
        raise PqmError(f"{folder} holds no adapter ({WEIGHTS} is missing): run stage 4 for sat, stage 5 for a speaker")
    try:
        values = read_json(folder / INFO)
    except RecursionError:
        values = None
    if not isinstance(values, dict) or values.get("format_version") != FORMAT_VERSION:
        version = str(values.get("format_version") if isinstance(values, dict) else None)[:20]
        raise PqmError(
            f"{folder / INFO} is of another format version ({version}, this program reads {FORMAT_VERSION}): run stage "
            "4 for sat, stage 5 or `pqm enroll` for a speaker; it is then replaced"
        )
    try:
        info = AdapterInfo(**values)
    except TypeError as error:
        raise PqmError(f"{folder / INFO} has other fields than expected ({error})") from error
    for name, kind in _KINDS.items():
        if not isinstance(getattr(info, name), kind):
            raise PqmError(f"{folder / INFO}: {name} is not of type {kind.__name__}: delete {folder} and make it again")
    return info


def read_info_for(folder: Path, base_sha256: str) -> AdapterInfo:
    """What is known of an adapter that this base is to be used with.

    Raises:
        PqmError: if it was made for another base.
    """
    info = read_info(folder)
    if info.base_sha256 != base_sha256:
        raise PqmError(
            f"{folder} was made for another base (sha256 {info.base_sha256[:12]}…, this one is {base_sha256[:12]}…): "
            "decode with the base it was trained on, or run stages 4 and 5 again"
        )
    return info


def check_context(folder: Path, context: str) -> None:
    """See that the adapter in `folder` did not learn on another context than this, `window` or `clip`.

    What records say nothing of it, as those of families without a window, is taken with either.

    Raises:
        PqmError: if it did.
    """
    request = read_info(folder).request
    search = request.get("search")
    learned = request.get("context") or (search.get("context") if isinstance(search, Mapping) else None)
    if learned in ("window", "clip") and learned != context:
        remedy = f"use context {learned}, or run stages 4 and 5 or `pqm enroll` again with context {context}"
        raise PqmError(f"{folder} has learned on the context {learned}, this is {context}: {remedy}")


def adapter_answering(folder: Path, request: Mapping[str, Any], aside: Collection[str] = ()) -> AdapterInfo | None:
    """What is known of the adapter in `folder`, if it is there as `request` asks for; else the log says what differs.

    Args:
        aside: keys of the request that hold what was found on the way.
    """
    whole = all((folder / name).is_file() for name in (WEIGHTS, CONFIG)) or (folder / OWN_WEIGHTS).is_file()
    if not whole or not (folder / INFO).is_file():
        return None
    try:
        info = read_info(folder)
    except PqmError as error:
        _log.warning("%s; training it again", error)
        return None
    return info if answers_or_says(info.request, request, str(folder), aside) else None


def load_adapter(
    network: "nn.Module", folder: Path, base_sha256: str, *, trainable: bool = False, name: str = "default"
) -> "library.PeftModel":
    """Put a saved adapter around `network`, in place, and make it the active one.

    A wrapped network keeps the adapters of other names that it has.

    Raises:
        PqmError: if the adapter was made for another base, or its file is damaged.
    """
    read_info_for(folder, base_sha256)
    check_adapter(folder)
    try:
        if isinstance(network, library.PeftModel):
            if name in network.peft_config:
                network.delete_adapter(name)
            network.load_adapter(str(folder), name, is_trainable=trainable)
            network.set_adapter(name)
            return network
        return library.PeftModel.from_pretrained(network, str(folder), name, is_trainable=trainable)
    except (SafetensorError, RuntimeError, KeyError, OSError, json.JSONDecodeError) as error:
        raise PqmError(
            f"{folder} is damaged ({str(error).splitlines()[0]}): delete it and run its stage again"
        ) from error


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
            raise _wrong(path, f"holds {name[:80]!r} of type {dtype}, which is not part of a LoRA")
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
