"""Stage 6: the words that each system finds in each target speaker's test utterances."""

from pqm_plugin.models.families import family_of
from pqm_plugin.stages.common.index import trust_adapters
from pqm_plugin.stages.common.material import Material
from pqm_plugin.stages.common.systems import CHECKED, check_toolkit, parse_system, possible_adapters, systems
from pqm_plugin.stages.decoding.run import run_tasks
from pqm_plugin.stages.decoding.task import DecodeTask
from pqm_plugin.stages.recipe import Recipe


def run(recipe: Recipe) -> None:
    """Decode all systems; what is decoded already is kept."""
    material = Material(recipe)
    trust_adapters(recipe)
    check_toolkit(recipe)
    run_tasks(recipe, material, _tasks(recipe, material))


def _tasks(recipe: Recipe, material: Material) -> list[DecodeTask]:
    """Every system on the target speakers, and those that need no speaker's adapter on the control set."""
    baselines = family_of(recipe.base_dir).BASELINES
    speakers, target_set = material.speakers(), recipe.decoded(recipe.target_set, recipe.split)
    possible = possible_adapters(material.has_sat(), len(speakers))
    wanted = systems(recipe, baselines, possible)
    tasks = [DecodeTask(recipe, system, target_set, recipe.split, speakers) for system in wanted]
    if recipe.check_set and recipe.split == "test":
        speakers, check_set = material.partition.speakers("check"), recipe.decoded(recipe.check_set)
        checked = [system for key in CHECKED if (system := parse_system(key, baselines)).adapter in ("", *possible)]
        tasks += [DecodeTask(recipe, system, check_set, "check", speakers) for system in checked]
    return tasks
