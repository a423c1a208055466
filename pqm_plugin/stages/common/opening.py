"""Open a model of a recipe: float or packed, with or without an adapter, in which mode."""

import logging
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from pqm_plugin.devices import free_bytes
from pqm_plugin.engine.packing import open_float, open_packed
from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json, sha256
from pqm_plugin.models.families import family_of
from pqm_plugin.models.interface import Recognizer
from pqm_plugin.quantize.modes import AUTO, META, PACKED, pick_mode
from pqm_plugin.stages.recipe import Recipe

ROUNDED = "nf4-rtn"
"""The packed model as it is without calibration: each weight rounded to its nearest level."""
PACKED_KINDS = ("nf4", ROUNDED)
BASE_KINDS = ("full", *PACKED_KINDS)


@dataclass(frozen=True)
class Opened:
    """A recogniser and the hash of the weights file that it came from; the `mode` of packed weights."""

    recognizer: Recognizer
    weights: Path
    weights_sha256: str
    mode: str = ""


def weights_file(recipe: Recipe, base_kind: str) -> Path:
    """The file of a base kind.

    Raises:
        PqmError: if its stage has not run.
    """
    if base_kind not in BASE_KINDS:
        raise PqmError(f"base {base_kind!r} is not known: use {' or '.join(BASE_KINDS)}")
    if base_kind == "full":
        path = family_of(recipe.base_dir).weights_file(recipe.base_dir)
    else:
        path = recipe.adapter_dir(base_kind) / PACKED
    if not path.is_file():
        raise PqmError(f"{path} is missing: run stage {2 if base_kind == 'full' else 3} first")
    return path


@cache
def _hash(path: Path, size_bytes: int, changed_ns: int) -> str:
    return sha256(path)


def weights_hash(path: Path) -> str:
    """Hash of a weights file, computed once a process while the file stays the same."""
    status = path.stat()
    key = (path, status.st_size, status.st_mtime_ns)
    return _TRUSTED.get(key) or _hash(*key)


_TRUSTED: dict[tuple[Path, int, int], str] = {}


def trust_hash(path: Path, size_bytes: int, changed_ns: int, sha256: str) -> None:
    """Let `weights_hash` give this hash while the file has this size and time of change."""
    _TRUSTED[path, size_bytes, changed_ns] = sha256


def open_base(recipe: Recipe, base_kind: str, mode: str = "exact", n_threads: int = 1) -> Opened:
    """Load the float or a packed base into memory, in evaluation mode."""
    torch.set_num_threads(n_threads)
    weights = weights_file(recipe, base_kind)
    if base_kind == "full":
        return Opened(open_float(weights.parent, recipe.config.decode, recipe.device), weights, weights_hash(weights))
    recognizer = open_packed(weights.parent, recipe.config.decode, recipe.device, mode)
    return Opened(recognizer, weights, weights_hash(weights), mode)


def decoding_mode(recipe: Recipe) -> str:
    """The mode of `--mode`; for `auto` what fits for so many jobs at once, see `quantize.modes.pick_mode`.

    Decided once, before there are jobs, by what is free where they are started. Both modes find the same words (see
    `quantize.layers.install`): those of a table must not depend on how much memory was free.
    """
    if recipe.mode != AUTO:
        return recipe.mode
    n_weights = int(read_json(recipe.packed_dir / META)["parameters"])
    picked = pick_mode(n_weights, free_bytes(recipe.device) // recipe.inference_nj)
    logging.info("mode auto: %s, for %s a job on %s", picked.mode, picked.reason, recipe.device)
    return picked.mode
