"""How stage 6 computes with packed weights, where the recipe leaves it to the machine."""

import logging

from pqm_plugin.devices import free_bytes
from pqm_plugin.files import read_json
from pqm_plugin.quantize.modes import AUTO, META, pick_mode
from pqm_plugin.stages.common.opening import PACKED_KINDS
from pqm_plugin.stages.recipe import Recipe


def decoding_mode(recipe: Recipe) -> str:
    """The mode of `--mode`; for `auto` what fits for so many jobs at once, see `quantize.modes.pick_mode`.

    Decided once, before there are jobs, by what is free where they are started. It is `exact` or `small`, which find
    the same words (see `quantize.layers.install`): those of a table must not depend on how much memory was free, so
    that `fast`, which rounds otherwise, is never chosen.
    """
    if recipe.mode != AUTO:
        return recipe.mode
    n_weights = int(read_json(recipe.packed_dir / META)["parameters"])
    picked = pick_mode(n_weights, free_bytes(recipe.device) // recipe.inference_nj, bfloat16=False)
    logging.info("mode auto: %s, for %s a job on %s", picked.mode, picked.reason, recipe.device)
    return picked.mode


def arithmetic(recipe: Recipe, base_kind: str) -> dict[str, str]:
    """What of the mode the words depend on: nothing, unless packed weights are multiplied in bfloat16."""
    return {"arithmetic": "bfloat16"} if base_kind in PACKED_KINDS and recipe.mode == "fast" else {}
