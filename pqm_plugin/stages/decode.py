"""Stage 6: the words that each system finds in each target speaker's test utterances."""

import logging
from collections.abc import Iterable, Sequence

from pqm_plugin.files import write_text
from pqm_plugin.models.families import family_of
from pqm_plugin.stages.common.jobs import Job, run_jobs
from pqm_plugin.stages.common.material import Material
from pqm_plugin.stages.common.systems import CHECKED, STOCK, System, parse_system, systems
from pqm_plugin.stages.decoding.job import decode_speakers
from pqm_plugin.stages.decoding.merge import merge
from pqm_plugin.stages.decoding.requests import part_of
from pqm_plugin.stages.decoding.stock import decode_stock_speakers
from pqm_plugin.stages.recipe import Recipe


def run(recipe: Recipe) -> None:
    """Decode all systems, several in parallel, one thread each; what is decoded already is kept."""
    material = Material(recipe)
    baselines = family_of(recipe.base_dir).BASELINES
    todo = [(system, recipe.decoded_set, "test", material.speakers()) for system in systems(recipe, baselines)]
    if recipe.check_set:
        speakers = material.partition.speakers("check")
        todo += [(parse_system(key, baselines), _check_set(recipe), "check", speakers) for key in CHECKED]
    jobs = [
        job
        for system, set_name, split, speakers in todo
        for job in _jobs(recipe, material, system, set_name, split, speakers)
    ]
    logging.info("%d decoding jobs on %d processes", len(jobs), recipe.inference_nj)
    run_jobs(jobs, recipe.inference_nj, "decode")
    for system, set_name, split, speakers in todo:
        merge(recipe, material, system, set_name, split, speakers)


def _check_set(recipe: Recipe) -> str:
    return f"{recipe.check_set}_{recipe.tag}" if recipe.tag else recipe.check_set


def _jobs(
    recipe: Recipe, material: Material, system: System, set_name: str, split: str, speakers: Sequence[str]
) -> Iterable[Job]:
    """Jobs of one system, each with its share of the speakers and of the work that is still to do."""
    missing = {
        speaker: part.missing
        for speaker in speakers
        for part in [part_of(recipe, material, system, set_name, split, speaker, speakers)]
        if part.missing
    }
    folder = recipe.decode_dir(system.key, set_name)
    for index, share in enumerate(_balanced(missing, recipe.inference_nj)):
        log = folder / "log" / f"decode.{index}.log"
        stock = system.base_kind == STOCK
        # A stock tool says how far it is in its log alone.
        counter = folder / "stock" / str(index) / "asr_inference.log" if stock else log.with_suffix(".done")
        write_text(counter, "")
        yield Job(
            f"{system.key} {set_name} {' '.join(share)}",
            decode_stock_speakers if stock else decode_speakers,
            (recipe, system, set_name, split, share, list(speakers), counter),
            log,
            sum(len(missing[speaker]) for speaker in share),
            counter,
            b"best hypo" if stock else b"\n",
        )


def _balanced(missing: dict[str, list[str]], n: int) -> list[list[str]]:
    """Deal speakers out so that every job has about as many utterances as the others."""
    shares: list[list[str]] = [[] for _ in range(min(n, len(missing)))]
    for speaker in sorted(missing, key=lambda name: (-len(missing[name]), name)):
        min(shares, key=lambda share: sum(len(missing[name]) for name in share)).append(speaker)
    return shares
