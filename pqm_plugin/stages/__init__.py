"""The eight stages of a recipe, each a function of a `Recipe`; the shell calls nothing else."""

from importlib import import_module

from pqm_plugin.stages.recipe import Recipe

STAGES = ("data", "base", "quantize", "pretrain", "adapt", "decode", "score", "report")
"""By number, from 1."""
STUDIES = ("sensitivity",)
"""What can be run beside them; stage 8 shows what it finds."""


def run_stage(name: str, recipe: Recipe) -> None:
    """Run one stage by name; its module is imported only now, so that `--help` is quick."""
    if name not in (*STAGES, *STUDIES):
        raise ValueError(f"stage {name!r}: use one of {', '.join((*STAGES, *STUDIES))}")
    import_module(f"pqm_plugin.stages.{name}").run(recipe)
