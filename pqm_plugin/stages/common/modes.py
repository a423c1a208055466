"""How stage 6 computes with packed weights, where the recipe leaves it to the machine."""

import logging

import torch

from pqm_plugin.files import read_json
from pqm_plugin.processes import free_memory_bytes
from pqm_plugin.quantize.names import META
from pqm_plugin.stages.common.opening import PACKED_KINDS
from pqm_plugin.stages.recipe import AUTO_MODE, Recipe

_SHARE = 4
"""Weights may take one part in so many of the memory that is free: the search needs some, and so do others."""


def decoding_mode(recipe: Recipe) -> str:
    """The mode of `--mode`; for `auto`, `exact` where its float32 copy fits well into free memory, else `small`.

    Both find the same words, so that they do not depend on how much memory was free; `fast` is never chosen.
    """
    if recipe.mode != AUTO_MODE:
        return recipe.mode
    needed = 4 * int(read_json(recipe.packed_dir / META)["parameters"])
    free = torch.cuda.mem_get_info()[0] if recipe.device == "cuda" else free_memory_bytes()
    share = free / recipe.inference_nj if free else 0
    mode = "small" if 0 < share < _SHARE * needed else "exact"
    megabytes = (f"{number / 1e6:.0f} MB" for number in (needed, share))
    logging.info("mode auto: %s, for float32 weights of %s and %s of free memory a job", mode, *megabytes)
    return mode


def arithmetic(recipe: Recipe, base_kind: str) -> dict[str, str]:
    """What of the mode the words depend on: nothing, unless packed weights are multiplied in bfloat16."""
    return {"arithmetic": "bfloat16"} if base_kind in PACKED_KINDS and recipe.mode == "fast" else {}
