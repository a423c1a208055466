"""Stage 5: for each target speaker an adapter, from the speaker-independent one on if there is one."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pqm_plugin.adapters.files import WEIGHTS, load_adapter
from pqm_plugin.corpus.names import some
from pqm_plugin.errors import PqmError
from pqm_plugin.files import safe_name
from pqm_plugin.stages.common.index import AdapterIndex, Row
from pqm_plugin.stages.common.jobs import Job, backend_of, n_shares, run_jobs, shares
from pqm_plugin.stages.common.material import Material, examples
from pqm_plugin.stages.common.opening import open_base, weights_file, weights_hash
from pqm_plugin.stages.common.systems import SPEAKERS_OWN, adapted_bases
from pqm_plugin.stages.common.training import (
    Trained,
    adapter_is_done,
    attach_lora,
    sweep_checkpoints,
    train_and_save,
    training_request,
)
from pqm_plugin.stages.config import as_dict
from pqm_plugin.stages.recipe import Recipe


def run(recipe: Recipe) -> None:
    """Adapt every target speaker whose adapter is not there yet, several in parallel."""
    for base_kind in adapted_bases(recipe, SPEAKERS_OWN):
        material = Material(recipe)
        speakers = material.speakers()
        sat = recipe.adapter_dir(base_kind) / "sat"
        if material.has_sat() and not (sat / WEIGHTS).is_file():
            raise PqmError(f"{sat} holds no adapter to start from: run stage 4 (pretrain) first")
        root = recipe.adapter_dir(base_kind) / "speakers"
        index = AdapterIndex(root)
        todo = [speaker for speaker in speakers if not _is_done(index, recipe, base_kind, material, speaker)]
        logging.info("%d speakers to adapt on %s, %d done already", len(todo), base_kind, len(speakers) - len(todo))
        try:
            run_jobs(_jobs(recipe, base_kind, material, todo), recipe.nj, "adapt", backend_of(recipe))
        finally:
            index.take_in()
        if todo:
            sweep_checkpoints(root, set(todo))


def _jobs(recipe: Recipe, base_kind: str, material: Material, todo: Sequence[str]) -> list[Job]:
    work = {speaker: len(material.partition.utterances("train", speaker)) for speaker in todo}
    logs = recipe.adapter_dir(base_kind) / "speakers" / "log"
    jobs = []
    for place, share in enumerate(shares(work, n_shares(len(todo), recipe.nj, recipe.speakers_per_job))):
        counter = logs / f"adapt.{place}.done"
        counter.parent.mkdir(parents=True, exist_ok=True)
        counter.write_text("")
        arguments = (recipe, base_kind, share, counter)
        log = logs / f"adapt.{place}.log"
        jobs.append(Job(f"adapt {some(share, 3)}", adapt_speakers, arguments, log, len(share), counter))
    return jobs


def _is_done(index: AdapterIndex, recipe: Recipe, base_kind: str, material: Material, speaker: str) -> bool:
    request = _request(recipe, base_kind, material, speaker)
    if index.holds(speaker, request):
        return True
    folder = _folder(recipe, base_kind, speaker)
    if not index.has_folder(speaker) or not adapter_is_done(folder, request):
        return False
    index.add(Row.of(folder, request))
    return True


def adapt_speakers(recipe: Recipe, base_kind: str, speakers: Sequence[str], counter: Path) -> None:
    """Adapt some speakers in this process: the base is loaded once, every speaker starts from the same adapter."""
    material = Material(recipe)
    opened = open_base(recipe, base_kind)
    recognizer = opened.recognizer
    if material.has_sat():
        sat = recipe.adapter_dir(base_kind) / "sat"
        model = load_adapter(recognizer.network, sat, opened.weights_sha256, trainable=True)
    else:
        model = attach_lora(recognizer, recipe.config.lora, recipe.config.seed)
    trained = Trained(recognizer, model, recipe.config.adapt, recipe.config.lora)
    start = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
    lines = counter.read_text(encoding="utf-8").splitlines() if counter.exists() else []
    noted = {line.split("\t")[0] for line in lines}
    for speaker in speakers:
        request = _request(recipe, base_kind, material, speaker)
        folder = _folder(recipe, base_kind, speaker)
        # An earlier try of this job came as far as that.
        if not adapter_is_done(folder, request):
            with torch.no_grad():
                for name, value in model.named_parameters():
                    if name in start:
                        value.copy_(start[name])
            found = (material.utterances(split, speaker) for split in ("train", "dev"))
            train, dev = (examples(recognizer, utterances, material.fit) for utterances in found)
            train_and_save(trained, train, dev, request, folder, speaker)
        if speaker not in noted:
            with counter.open("a", encoding="utf-8") as done:
                done.write(Row.of(folder, request).line())


def _folder(recipe: Recipe, base_kind: str, speaker: str) -> Path:
    return recipe.adapter_dir(base_kind) / "speakers" / safe_name(speaker)


def _request(recipe: Recipe, base_kind: str, material: Material, speaker: str) -> dict[str, Any]:
    sat = recipe.adapter_dir(base_kind) / "sat" / WEIGHTS
    return {
        "base_sha256": weights_hash(weights_file(recipe, base_kind)),
        "start_sha256": weights_hash(sat) if material.has_sat() and sat.is_file() else "",
        "lora": as_dict(recipe.config.lora),
        "train": as_dict(recipe.config.adapt),
        "seed": recipe.config.seed,
        **training_request(material),
        "threads": 1,
        **{split: material.digest(split, speaker) for split in ("train", "dev")},
    }
