"""Stage 5: for each target speaker an adapter, from the speaker-independent one on if there is one."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pqm_plugin.adapters.files import WEIGHTS, load_adapter
from pqm_plugin.errors import PqmError
from pqm_plugin.files import safe_name
from pqm_plugin.stages.common.done import digest
from pqm_plugin.stages.common.jobs import Job, run_jobs
from pqm_plugin.stages.common.material import Material, examples
from pqm_plugin.stages.common.opening import open_base, weights_file, weights_hash
from pqm_plugin.stages.common.systems import SPEAKERS_OWN, adapted_bases
from pqm_plugin.stages.common.training import (
    Trained,
    adapter_is_done,
    attach_lora,
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
        todo = [
            speaker
            for speaker in speakers
            if not adapter_is_done(_folder(recipe, base_kind, speaker), _request(recipe, base_kind, material, speaker))
        ]
        logging.info("%d speakers to adapt on %s, %d done already", len(todo), base_kind, len(speakers) - len(todo))
        root = recipe.adapter_dir(base_kind) / "speakers"
        jobs = []
        for index, share in enumerate(shares(todo, recipe.nj)):
            counter = root / "log" / f"adapt.{index}.done"
            counter.parent.mkdir(parents=True, exist_ok=True)
            counter.write_text("")
            log = root / "log" / f"adapt.{index}.log"
            arguments = (recipe, base_kind, share, counter)
            jobs.append(Job(f"adapt {' '.join(share)}", adapt_speakers, arguments, log, len(share), counter))
        run_jobs(jobs, recipe.nj, "adapt")


def shares(speakers: Sequence[str], n: int) -> list[list[str]]:
    """Deal speakers out to at most `n` jobs."""
    return [list(speakers[index::n]) for index in range(min(n, len(speakers)))]


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
    for speaker in speakers:
        with torch.no_grad():
            for name, value in model.named_parameters():
                if name in start:
                    value.copy_(start[name])
        request = _request(recipe, base_kind, material, speaker)
        train, dev = (
            examples(recognizer, material.utterances(split, speaker), material.fit) for split in ("train", "dev")
        )
        folder = _folder(recipe, base_kind, speaker)
        train_and_save(trained, train, dev, request, folder, speaker)
        with counter.open("a", encoding="utf-8") as done:
            done.write(f"{speaker}\n")


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
        **{split: digest(material.utterances(split, speaker)) for split in ("train", "dev")},
    }
