"""Study: the same recipe with other settings, seeds or minutes, each as a variant.

The file that `--study` names lists sections of cells; a cell says what differs from the recipe's YAML. Every cell is
`exp/<base>_nf4-<section>-<cell>/`, made and decoded by the stages themselves, so a cell that is done is cheap to run
again and what was cut off goes on.
"""

import dataclasses
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json, safe_name, whole_folder, write_json, write_text
from pqm_plugin.quantize.modes import META, PACKED
from pqm_plugin.settings import as_dict, read_yaml
from pqm_plugin.stages import run_stage
from pqm_plugin.stages.config import load_config
from pqm_plugin.stages.recipe import Recipe
from pqm_plugin.stages.score import results_files

RECORD = "study"
_STAGES = ("quantize", "pretrain", "adapt", "decode", "score")
_KEPT = (
    *("utterances", "words", "errors", "wer", "wer_ci95", "wer_normalized"),
    *("model_bytes", "adapter_bytes", "adapter_fraction"),
)
_MADE = ("commit", "command", "seed", "hardware", "date")
_HEARD = "adapt_minutes"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One variant: what differs from the recipe's settings, and the systems that it decodes."""

    section: str
    name: str
    changes: Mapping[str, Any]
    systems: tuple[str, ...]

    @property
    def variant(self) -> str:
        """Name of its model and adapters; blanks and the like become underscores."""
        return re.sub(r"[^A-Za-z0-9._-]+", "_", f"{self.section}-{self.name}")


def run(recipe: Recipe) -> None:
    """Run every cell that is not done and write what all of them gave, after each, into `study.json`.

    Beside them stands what the recipe's own settings gave at that time, which the cells are to be compared with.
    """
    if recipe.study is None:
        raise PqmError(
            "--study is missing: give the YAML of the study's cells, such as egs/librispeech/conf/study.yaml"
        )
    cells = list(read_cells(recipe.study))
    out, own = study_file(recipe), results_files(recipe)[recipe.target_set]
    reference = {"reference": _kept(read_json(own))} if own.is_file() else {}
    for number, cell in enumerate(cells, start=1):
        logging.info("study: cell %d of %d, %s", number, len(cells), cell.variant)
        variant = variant_of(recipe, cell)
        for stage in _STAGES:
            run_stage(stage, variant)
        rows = [_row(recipe, done) for done in cells[:number]]
        write_json(out, {"set": recipe.target_set, **reference, "cells": rows})
    logging.info("%s", out)


def study_file(recipe: Recipe) -> Path:
    """Where the outcome is: beside the recipe's results of the same split and decoding setting."""
    return results_files(recipe)[recipe.target_set].with_name(
        results_files(recipe)[recipe.target_set].name.replace("results", RECORD, 1)
    )


def read_cells(path: Path) -> Iterator[Cell]:
    """The cells of a study file, in its order.

    Raises:
        PqmError: if the file is not a study.
    """
    sections = read_yaml(path, "sections of a study, with their `systems` and `cells`")
    for section, body in sections.items():
        if not isinstance(body, dict) or not body.get("systems") or not isinstance(body.get("cells"), dict):
            raise PqmError(f"{path}: section {section!r} needs `systems` (a list) and `cells` (name: what differs)")
        for name, changes in body["cells"].items():
            if not isinstance(changes, dict):
                raise PqmError(f"{path}: cell {section}/{name} must be keys and values, such as {{seed: 1}}")
            yield Cell(str(section), str(name), changes, tuple(body["systems"]))


def variant_of(recipe: Recipe, cell: Cell) -> Recipe:
    """The recipe of a cell, with its YAML on disk; what its settings share with the recipe's own it starts from.

    A second decoding setting stays one: what a cell trains, and the words that it is trained on, are the same under
    every `--tag`.
    """
    name = safe_name(cell.variant, "cell")
    folder = recipe.expdir / "study"
    settings = folder / f"{name}.yaml"
    write_text(settings, _yaml(as_dict(load_config(recipe.pqm_config)), cell.changes))
    search = None
    if recipe.inference_config:
        search = folder / f"{name}_{recipe.tag}.yaml"
        write_text(search, _yaml(dataclasses.asdict(recipe.config.decode), cell.changes.get("decode", {})))
    variant = dataclasses.replace(
        recipe, variant=name, pqm_config=settings, inference_config=search, systems=cell.systems, check_set=""
    )
    variant.config  # noqa: B018  an unknown key is named before anything runs
    _start_from(recipe, variant)
    return variant


def _yaml(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> str:
    return yaml.safe_dump(_merged(settings, changes), sort_keys=False)


def _merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(settings)
    for key, value in changes.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if nested else value
    return merged


def _start_from(recipe: Recipe, variant: Recipe) -> None:
    """Copy the packed model and the speaker-independent adapters: the stages do again what is not as asked for."""
    for kind in ("nf4", "full"):
        source, target = recipe.adapter_dir(kind), variant.adapter_dir(kind)
        if kind == "nf4" and (source / META).is_file() and not (target / PACKED).exists():
            target.mkdir(parents=True, exist_ok=True)
            # meta.json last: it says that the model is there.
            for path in sorted((p for p in source.iterdir() if p.is_file()), key=lambda p: p.name == META):
                if not path.name.startswith(("results", RECORD, "sensitivity", "RESULTS", ".")):
                    shutil.copyfile(path, target / path.name)
        if (source / "sat").is_dir() and not (target / "sat").exists():
            with whole_folder(target / "sat") as scratch:
                shutil.copytree(source / "sat", scratch, dirs_exist_ok=True)


def _row(recipe: Recipe, cell: Cell) -> dict[str, Any]:
    """What a cell gave, as far as a table needs it."""
    kept = _kept(read_json(results_files(variant_of(recipe, cell))[recipe.target_set]))
    kept["systems"] = {key: entry for key, entry in kept["systems"].items() if key in cell.systems}
    return {"section": cell.section, "cell": cell.name, "changes": dict(cell.changes), **kept}


def _kept(results: Mapping[str, Any]) -> dict[str, Any]:
    """How results were made, and of each system what tables and figures of a study show."""
    systems = {key: {name: entry[name] for name in _KEPT} for key, entry in results["systems"].items()}
    meta = {key: results["meta"][key] for key in (*_MADE, *([_HEARD] if _HEARD in results["meta"] else []))}
    return {"meta": meta, "systems": systems}
