"""What workers have imported before they are forked: all that their jobs need."""

from pathlib import Path

from pqm_plugin.models.names import LOADED
from pqm_plugin.stages.recipe import Recipe

_ADAPTERS = "pqm_plugin.adapters.loaded"
_STAGES = ("pqm_plugin.stages.adapt", "pqm_plugin.stages.decode")
EVERYTHING = (*_STAGES, *LOADED.values(), _ADAPTERS)
"""Of every stage and family."""


def preloaded(stage: str, recipe: Recipe) -> tuple[str, ...]:
    """Modules for the jobs of one stage and of the model that is there now; for all families if none is yet.

    What decodes has no use for peft, which takes as long as all the rest.
    """
    models = [LOADED[name] for name in LOADED if any((folder / name).is_file() for folder in _folders(recipe))]
    learns = () if stage == "decode" else (_ADAPTERS,)
    return (*_STAGES, *(models or LOADED.values()), *learns)


def _folders(recipe: Recipe) -> tuple[Path, ...]:
    return (recipe.packed_dir, recipe.base_dir) if recipe.base else ()
