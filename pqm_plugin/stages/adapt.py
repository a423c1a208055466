"""Stage 5: for each target speaker an adapter, from the speaker-independent one on if there is one."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from pqm_plugin.adapters.files import WEIGHTS
from pqm_plugin.corpus.names import some
from pqm_plugin.errors import PqmError
from pqm_plugin.stages.adapting.groups import dealt, groups_of, speakers_per_batch
from pqm_plugin.stages.adapting.speech import first_pass
from pqm_plugin.stages.adapting.start import start_of
from pqm_plugin.stages.adapting.target import Target, target_of
from pqm_plugin.stages.common.index import AdapterIndex, Row
from pqm_plugin.stages.common.jobs import Job, backend_of, run_jobs
from pqm_plugin.stages.common.material import Material
from pqm_plugin.stages.common.systems import Voices, all_voices, check_toolkit
from pqm_plugin.stages.common.training import (
    Trained,
    save_as_it_starts,
    sweep_checkpoints,
    train_and_save,
    train_and_save_together,
)
from pqm_plugin.stages.decoding.run import run_tasks
from pqm_plugin.stages.recipe import Recipe


def run(recipe: Recipe) -> None:
    """Adapt every target speaker whose adapter is not there yet, several in parallel."""
    material = Material(recipe)
    # A wrong --speakers is named before anything that is missing.
    material.speakers()
    check_toolkit(recipe)
    for voices in all_voices(recipe):
        sat = recipe.adapter_dir(voices.base_kind) / "sat"
        if voices.from_sat and material.has_sat() and not (sat / WEIGHTS).is_file():
            raise PqmError(f"{sat} holds no adapter to start from: run stage 4 (pretrain) first")
        if voices.rounds:
            run_tasks(recipe, material, first_pass(material, voices))
        _adapt(material, voices)


def _adapt(material: Material, voices: Voices) -> None:
    recipe, speakers = material.recipe, material.speakers()
    root = voices.root(recipe)
    index = AdapterIndex(root, voices.weights)
    todo = [speaker for speaker in speakers if not _is_done(index, material, voices, speaker)]
    logging.info("%s: %d speakers to adapt, %d done already", root, len(todo), len(speakers) - len(todo))
    try:
        run_jobs(_jobs(material, voices, todo), recipe.nj, "adapt", backend_of(recipe))
    finally:
        index.take_in()
    if todo or index.has_checkpoints():
        sweep_checkpoints(root, set(speakers))


def _jobs(material: Material, voices: Voices, todo: Sequence[str]) -> list[Job]:
    recipe = material.recipe
    groups = groups_of(material, voices, todo)
    logs = voices.root(recipe) / "log"
    jobs = []
    for place, share in enumerate(dealt(material, groups)):
        counter = logs / f"adapt.{place}.done"
        counter.parent.mkdir(parents=True, exist_ok=True)
        counter.write_text("")
        speakers = [speaker for group in share for speaker in group]
        arguments = (recipe, voices, share, counter)
        log = logs / f"adapt.{place}.log"
        jobs.append(Job(f"adapt {some(speakers, 3)}", adapt_speakers, arguments, log, len(speakers), counter))
    return jobs


def _is_done(index: AdapterIndex, material: Material, voices: Voices, speaker: str) -> bool:
    target = target_of(material, voices, speaker)
    if index.holds(speaker, target.request):
        return True
    if not index.has_folder(speaker) or not target.is_done():
        return False
    index.add(Row.of(target.folder, target.request, voices.weights))
    return True


def adapt_speakers(recipe: Recipe, voices: Voices, groups: Sequence[Sequence[str]], counter: Path) -> None:
    """Adapt some speakers in this process: the base is loaded once, every group starts from the same weights."""
    material = Material(recipe)
    trained = start_of(material, voices)
    start = {name: value.detach().clone() for name, value in trained.model.named_parameters() if value.requires_grad}
    lines = counter.read_text(encoding="utf-8").splitlines() if counter.exists() else []
    noted = {line.split("\t")[0] for line in lines}
    for group in groups:
        targets = [target_of(material, voices, speaker) for speaker in group]
        # An earlier try of this job came as far as that.
        if not all(target.is_done() for target in targets):
            with torch.no_grad():
                for name, value in trained.model.named_parameters():
                    if name in start:
                        value.copy_(start[name])
            _adapt_group(material, voices, trained, targets)
        for target in targets:
            if target.speaker not in noted:
                with counter.open("a", encoding="utf-8") as done:
                    done.write(Row.of(target.folder, target.request, voices.weights).line())


def _adapt_group(material: Material, voices: Voices, trained: Trained, targets: Sequence[Target]) -> None:
    """Train what is in the model for one speaker, or for several in the same batches; those that are done stay."""
    lessons = []
    for target in targets:
        lesson = target.lesson(trained, material.recipe.config.seed)
        if not voices.rounds or (lesson.train and lesson.dev):
            lessons.append(lesson)
        elif not target.is_done():
            save_as_it_starts(trained, lesson)
    if speakers_per_batch(material.recipe, voices) > 1 and lessons:
        train_and_save_together(trained, lessons, some([lesson.name for lesson in lessons], 3))
    else:
        for lesson in lessons:
            train_and_save(trained, lesson)
