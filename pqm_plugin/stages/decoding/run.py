"""Decode tasks as jobs: what is missing of each, shared out over processes or a cluster, and merged."""

import logging
from collections.abc import Iterable, Sequence

from pqm_plugin.corpus.names import some
from pqm_plugin.files import write_text
from pqm_plugin.models.families import family_of
from pqm_plugin.stages.common.jobs import Job, backend_of, n_shares, run_jobs, shares
from pqm_plugin.stages.common.material import Material
from pqm_plugin.stages.common.modes import decoding_mode
from pqm_plugin.stages.common.opening import PACKED_KINDS
from pqm_plugin.stages.common.systems import STOCK
from pqm_plugin.stages.decoding.job import decode_speakers
from pqm_plugin.stages.decoding.merge import merge
from pqm_plugin.stages.decoding.stock import decode_stock_speakers
from pqm_plugin.stages.decoding.task import DecodeTask
from pqm_plugin.stages.recipe import Recipe

_BATCHES_A_GROUP = 4


def run_tasks(recipe: Recipe, material: Material, tasks: Sequence[DecodeTask]) -> None:
    """Decode what is missing of each task, several jobs in parallel, one thread each, and write each task's files."""
    packed = any(task.system.base_kind in PACKED_KINDS for task in tasks)
    mode = decoding_mode(recipe) if packed else "exact"
    jobs = [job for task in tasks for job in _jobs(task, material, mode)]
    logging.info("%d decoding jobs on %d processes", len(jobs), recipe.inference_nj)
    run_jobs(jobs, recipe.inference_nj, "decode", backend_of(recipe))
    for task in tasks:
        merge(task, material)


def _jobs(task: DecodeTask, material: Material, mode: str) -> Iterable[Job]:
    """Jobs of one system, each with its share of the speakers and of the work that is still to do."""
    parts = {speaker: task.part(material, speaker) for speaker in task.speakers}
    missing = {speaker: part.missing for speaker, part in parts.items() if part.missing}
    if missing:
        (task.folder / "run.json").unlink(missing_ok=True)
    stock = task.system.base_kind == STOCK
    family = family_of(task.recipe.base_dir)
    joins = family.BATCHES and task.joins_speakers and not stock
    together = _groups(task, material) if joins else []
    groups = {group[0]: group for group in together or ([speaker] for speaker in missing)}
    work = {name: sum(len(missing.get(speaker, ())) for speaker in group) for name, group in groups.items()}
    todo = {name: n for name, n in work.items() if n}
    n_speakers = sum(len(groups[name]) for name in todo)
    n = n_shares(n_speakers, task.recipe.inference_nj, task.recipe.speakers_per_job)
    for index, names in enumerate(shares(todo, n)):
        share = [groups[name] for name in names]
        speakers = [speaker for group in share for speaker in group]
        log = task.folder / "log" / f"decode.{index}.log"
        # A stock tool says how far it is in its log alone.
        counter = task.folder / "stock" / str(index) / "stock.log" if stock else log.with_suffix(".done")
        write_text(counter, "")
        yield Job(
            f"{task.system.key} {task.set_name} {some(speakers, 3)}",
            decode_stock_speakers if stock else decode_speakers,
            (task, speakers, counter) if stock else (task, share, counter, mode),
            log,
            sum(len(missing.get(speaker, ())) for speaker in speakers),
            counter,
            family.STOCK_PROGRESS if stock else b"\n",
        )


def _groups(task: DecodeTask, material: Material) -> list[list[str]]:
    """Speakers whose utterances are searched together: enough for some batches, whatever is missing of them."""
    groups: list[list[str]] = []
    room = 0
    for speaker in task.speakers:
        if room <= 0:
            groups.append([])
            room = _BATCHES_A_GROUP * task.recipe.config.decode.batch_size
        groups[-1].append(speaker)
        room -= len(material.partition.utterances(task.split, speaker))
    return groups
