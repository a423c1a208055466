"""The eight stages of a recipe, each a function of a `Recipe`."""

import contextlib
from importlib import import_module
from pathlib import Path

from pqm_plugin.errors import PqmError
from pqm_plugin.files import exclusive, refusal_as_error
from pqm_plugin.processes import expect_workers
from pqm_plugin.stages.common.jobs import EVERYTHING, preloaded
from pqm_plugin.stages.recipe import Recipe

STAGES = ("data", "base", "quantize", "pretrain", "adapt", "decode", "score", "report")
"""By number, from 1."""
STUDIES = ("sensitivity", "study")
"""What can be run beside them; stage 8 shows what it finds."""
_BEFORE_LANGUAGE = ("data", "base", "report")
_WITH_JOBS = ("adapt", "decode", "study")


def run_stage(name: str, recipe: Recipe, *, alone: bool = False) -> None:
    """Run one stage by name; its module is imported only now, so that `--help` is quick.

    Args:
        alone: it is the only stage of this process: its workers import what this one needs, which saves them seconds.
    """
    if name not in (*STAGES, *STUDIES):
        raise ValueError(f"stage {name!r}: use one of {', '.join((*STAGES, *STUDIES))}")
    if name in _WITH_JOBS and recipe.cmd_backend == "local":
        # What workers are forked from imports while this process does, unless it runs since an earlier stage.
        expect_workers(preloaded(name, recipe) if alone else EVERYTHING)
    if name not in _BEFORE_LANGUAGE and recipe.finds_language and not recipe.language_file.is_file():
        raise PqmError(f"--language auto: {recipe.language_file} is missing: run stage 2 (base), which finds it")
    module = import_module(f"pqm_plugin.stages.{name}")
    with refusal_as_error(recipe.expdir):
        # A study only adds a file of its own, and may run beside the stages.
        with contextlib.nullcontext() if name in STUDIES else exclusive(_lock(name, recipe)):
            module.run(recipe)


def _lock(name: str, recipe: Recipe) -> Path:
    if name == "data":
        return recipe.datadir / ".lock"
    return recipe.expdir / f".{recipe.base_name}.lock"
