"""What workers have imported before they are forked: all that their jobs need."""

from pathlib import Path

from pqm_plugin.models.families import libraries
from pqm_plugin.stages.recipe import Recipe

_ADAPTERS = "pqm_plugin.adapters.loaded"
_STAGES = ("pqm_plugin.stages.adapt", "pqm_plugin.stages.decode")
EVERYTHING = (*_STAGES, *libraries(), _ADAPTERS)
"""Of every stage and family."""


def preloaded(stage: str, recipe: Recipe) -> tuple[str, ...]:
    """Modules for the jobs of one stage and of the model that is there now; for all families if none is yet.

    What decodes has no use for peft, which takes as long as all the rest.
    """
    learns = () if stage == "decode" else (_ADAPTERS,)
    return (*_STAGES, *libraries(*_folders(recipe)), *learns)


def _folders(recipe: Recipe) -> tuple[Path, ...]:
    return (recipe.packed_dir, recipe.base_dir) if recipe.base else ()
