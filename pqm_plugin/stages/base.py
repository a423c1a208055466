"""Stage 2: the float model that is going to be quantised."""

import logging
from pathlib import Path

from pqm_plugin.errors import PqmError
from pqm_plugin.files import sha256, whole_folder, write_json, write_text
from pqm_plugin.models.espnet_train import train_base
from pqm_plugin.models.families import family_of, fetch_base
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.stages.common.done import is_done
from pqm_plugin.stages.common.material import Material
from pqm_plugin.stages.recipe import BASE_RECORD, Recipe


def run(recipe: Recipe) -> None:
    """Train the base or bring it from where `--base` says, check that it loads, and record its hash."""
    folder = recipe.base_dir
    request = {"base": recipe.base if recipe.base == "train" else str(recipe.base)}
    if is_done(folder / BASE_RECORD, request, f"base {folder}"):
        logging.info("%s is there already", folder)
    else:
        if recipe.base == "train":
            _train(recipe, folder)
        else:
            with whole_folder(folder) as scratch:
                fetch_base(recipe.base, scratch)
        _record(folder, request)
    _report_text(recipe, folder)


def _train(recipe: Recipe, folder: Path) -> None:
    if not (recipe.train_set and recipe.valid_set and recipe.asr_config):
        raise PqmError("--base train needs --train_set, --valid_set and --asr_config")
    train_base(
        recipe.data(recipe.train_set),
        recipe.data(recipe.valid_set),
        recipe.asr_config,
        folder,
        token_type=recipe.token_type,
        n_tokens=recipe.n_tokens,
        ngpu=recipe.ngpu,
        n_threads=recipe.nj,
        seed=recipe.config.seed,
    )


def _record(folder: Path, request: dict[str, str]) -> None:
    family = family_of(folder)
    weights = family.weights_file(folder)
    recognizer = family.load_float(folder, SearchOptions(), "cpu")
    parameters = sum(parameter.numel() for parameter in recognizer.network.parameters())
    facts = {"family": family.NAME, "sha256": sha256(weights), "size_bytes": weights.stat().st_size}
    write_json(folder / BASE_RECORD, {"request": request, **facts, "parameters": parameters})
    logging.info("%s: %s, %.2f M parameters, %d bytes", folder, family.NAME, parameters / 1e6, facts["size_bytes"])


def _report_text(recipe: Recipe, folder: Path) -> None:
    """Match the corpus's text to the base's tokens and say what could not be matched."""
    recognizer = family_of(folder).load_skeleton(folder, SearchOptions(), "cpu")
    report = Material(recipe).fit(recognizer.symbols).report()
    for line in report.splitlines():
        logging.info("%s", line)
    write_text(folder / "text_fit.txt", report + "\n")
