"""Stage 5: for each target speaker an adapter, from the speaker-independent one on if there is one."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pqm_plugin.adapters.files import WEIGHTS
from pqm_plugin.corpus.names import some
from pqm_plugin.errors import PqmError
from pqm_plugin.files import safe_name
from pqm_plugin.stages.adapting.speech import SHARES, Speech, first_pass, speech_of
from pqm_plugin.stages.adapting.start import options_of, start_of
from pqm_plugin.stages.common.done import digest, size_bytes
from pqm_plugin.stages.common.index import AdapterIndex, Row
from pqm_plugin.stages.common.jobs import Job, backend_of, n_shares, run_jobs, shares
from pqm_plugin.stages.common.material import Material, examples, joined_examples
from pqm_plugin.stages.common.opening import weights_file, weights_hash
from pqm_plugin.stages.common.systems import COPY, Voices, all_voices, check_toolkit
from pqm_plugin.stages.common.training import (
    adapter_is_done,
    save_as_it_starts,
    sweep_checkpoints,
    train_and_save,
    training_request,
)
from pqm_plugin.stages.config import as_dict
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
    work = {speaker: work_of(material, speaker) for speaker in todo}
    logs = voices.root(recipe) / "log"
    jobs = []
    for place, share in enumerate(shares(work, n_shares(len(todo), recipe.nj, recipe.speakers_per_job))):
        counter = logs / f"adapt.{place}.done"
        counter.parent.mkdir(parents=True, exist_ok=True)
        counter.write_text("")
        arguments = (recipe, voices, share, counter)
        log = logs / f"adapt.{place}.log"
        jobs.append(Job(f"adapt {some(share, 3)}", adapt_speakers, arguments, log, len(share), counter))
    return jobs


def work_of(material: Material, speaker: str) -> float:
    """About how much there is to learn from: seconds of segments, or else bytes of files, or else utterances."""
    found = [utterance for split in SHARES for utterance in material.utterances(split, speaker)]
    return sum(
        size_bytes(utterance) or 1 if utterance.end_s is None else utterance.end_s - (utterance.start_s or 0)
        for utterance in found
    )


def _is_done(index: AdapterIndex, material: Material, voices: Voices, speaker: str) -> bool:
    request = _request(material, voices, speech_of(material, voices, speaker))
    if index.holds(speaker, request):
        return True
    folder = _folder(material, voices, speaker)
    if not index.has_folder(speaker) or not adapter_is_done(folder, request):
        return False
    index.add(Row.of(folder, request, voices.weights))
    return True


def adapt_speakers(recipe: Recipe, voices: Voices, speakers: Sequence[str], counter: Path) -> None:
    """Adapt some speakers in this process: the base is loaded once, every speaker starts from the same weights."""
    material = Material(recipe)
    trained = start_of(material, voices)
    recognizer, model = trained.recognizer, trained.model
    start = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
    lines = counter.read_text(encoding="utf-8").splitlines() if counter.exists() else []
    noted = {line.split("\t")[0] for line in lines}
    for speaker in speakers:
        speech = speech_of(material, voices, speaker)
        request = _request(material, voices, speech)
        folder = _folder(material, voices, speaker)
        # An earlier try of this job came as far as that.
        if not adapter_is_done(folder, request):
            with torch.no_grad():
                for name, value in model.named_parameters():
                    if name in start:
                        value.copy_(start[name])
            train, dev = (examples(recognizer, found, speech.fit) for found in (speech.train, speech.dev))
            train += joined_examples(recognizer, speech.train, speech.fit, trained.options, recipe.config.seed)
            if voices.rounds and not (train and dev):
                save_as_it_starts(trained, request, folder, speaker)
            else:
                train_and_save(trained, train, dev, request, folder, speaker)
        if speaker not in noted:
            with counter.open("a", encoding="utf-8") as done:
                done.write(Row.of(folder, request, voices.weights).line())


def _folder(material: Material, voices: Voices, speaker: str) -> Path:
    return voices.root(material.recipe) / safe_name(speaker)


def _request(material: Material, voices: Voices, speech: Speech) -> dict[str, Any]:
    recipe = material.recipe
    sat = recipe.adapter_dir(voices.base_kind) / "sat" / WEIGHTS
    from_sat = voices.from_sat and material.has_sat() and sat.is_file()
    return {
        # The index and checkpoints of adapters that are there already know of no controls.
        **({"control": voices.control} if voices.control else {}),
        "base_sha256": weights_hash(weights_file(recipe, voices.base_kind)),
        "start_sha256": weights_hash(sat) if from_sat else "",
        **({"lora": as_dict(recipe.config.lora)} if voices.control != COPY else {}),
        "train": as_dict(options_of(recipe.config, voices)),
        "seed": recipe.config.seed,
        **training_request(material),
        "threads": 1,
        "train_utterances": digest(speech.train),
        "dev_utterances": digest(speech.dev),
    }
