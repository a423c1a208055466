"""Stage 2: fetch or train the float base."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pqm_plugin.corpus.audio import load_audio, plain_file
from pqm_plugin.corpus.kaldi import read_data_folder, write_data_folder
from pqm_plugin.corpus.utterance import digest
from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json, sha256, whole_folder, write_json, write_text
from pqm_plugin.models.families import family_named, family_of, fetch_base, source_files
from pqm_plugin.models.language import AUTO
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.records import is_done
from pqm_plugin.stages.common.material import Material
from pqm_plugin.stages.common.opening import weights_hash
from pqm_plugin.stages.recipe import BASE_RECORD, Recipe

# The language is told by so many utterances, of the first of these splits that there are.
_TELLING = 8
_TELLING_SPLITS = ("train", "sat_train", "dev", "test")


def run(recipe: Recipe) -> None:
    """Train the base or bring it from where `--base` says, check that it loads, and record its hash."""
    folder = recipe.base_dir
    if recipe.base == "train":
        _train(recipe, folder)
        request = {"base": "train"}
    else:
        request = {"base": _identity(recipe.base)}
        if not is_done(folder / BASE_RECORD, request, f"base {folder}"):
            _bring(recipe, folder, request)
    if _is_recorded(folder, request):
        logging.info("%s is there already", folder)
    else:
        _record(folder, request, folder)
    _report_text(recipe, folder)
    if recipe.finds_language:
        _find_language(recipe, folder)
    else:
        # Refused now, not when hours of training have passed.
        family_of(folder).spoken_language(folder, recipe.config.decode.language)


def _find_language(recipe: Recipe, folder: Path) -> None:
    """Write down the language that the base finds in some utterances together, for all later stages."""
    family, material = family_of(folder), Material(recipe)
    language = family.spoken_language(folder, AUTO)
    every = next((found for split in _TELLING_SPLITS if (found := material.utterances(split))), [])
    n = min(_TELLING, len(every))
    picked = [every[place * len(every) // n] for place in range(n)]
    request = {"base_sha256": weights_hash(family.weights_file(folder)), "utterances": digest(picked)}
    if not is_done(recipe.language_file, request, f"language of {folder}"):
        if language == AUTO:
            recognizer = family.load_float(folder, SearchOptions(language=AUTO), "cpu")
            recognizer.network.eval()
            audio = [load_audio(utterance, recognizer.facts.sample_rate) for utterance in picked]
            language = recognizer.language_of([recognizer.pieces(samples)[0] for samples in audio])
        write_json(recipe.language_file, {"request": request, "language": language, "n_utterances": n})
    logging.info("language: %s, by %d utterances", read_json(recipe.language_file)["language"], n)


def _identity(source: str) -> str:
    """What tells one base from another: the hash of its weights or archive; of a model-zoo tag, its name."""
    path = Path(source).expanduser()
    if path.is_dir():
        hashes = [sha256(file) for file in source_files(path)]
        return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
    return sha256(path) if path.is_file() else source


def _bring(recipe: Recipe, folder: Path, request: dict[str, str]) -> None:
    """Copy or fetch the base into `folder`, which may hold an earlier copy, or be the base itself, but nothing else.

    It comes with its record: without one, a run after a kill would take it for somebody else's.

    Raises:
        PqmError: if `folder` holds something that this stage has not made.
    """
    if Path(recipe.base).expanduser().resolve() == folder.resolve():
        return
    if folder.exists() and not (folder / BASE_RECORD).exists():
        raise PqmError(f"{folder} is there already and was not made by stage 2: choose another --expdir, or move it")
    with whole_folder(folder) as scratch:
        fetch_base(recipe.base, scratch)
        _record(scratch, request, folder)


def _is_recorded(folder: Path, request: Mapping[str, str]) -> bool:
    """Whether the record is that of the weights which are there."""
    if not is_done(folder / BASE_RECORD, request, f"base {folder}"):
        return False
    return bool(read_json(folder / BASE_RECORD)["sha256"] == sha256(family_of(folder).weights_file(folder)))


def _train(recipe: Recipe, folder: Path) -> None:
    if not (recipe.train_set and recipe.valid_set and recipe.asr_config):
        raise PqmError("--base train needs --train_set, --valid_set and --asr_config")
    family = family_named(recipe.family)
    sample_rate = family.training_sample_rate(recipe.asr_config)
    family.train(
        _plain_data(recipe, recipe.train_set, sample_rate),
        _plain_data(recipe, recipe.valid_set, sample_rate),
        recipe.asr_config,
        folder,
        token_type=recipe.token_type,
        n_tokens=recipe.n_tokens,
        speed_factors=recipe.speed_perturb,
        ngpu=recipe.ngpu,
        n_threads=recipe.nj,
        seed=recipe.config.seed,
    )


def _plain_data(recipe: Recipe, set_name: str, sample_rate: int) -> Path:
    """The set as the trainer reads it: plain files at the model's rate, copied where the corpus has others."""
    source, dumped = recipe.data(set_name), recipe.expdir / "dump" / set_name
    utterances = read_data_folder(source)
    plain = [replace(u, audio=str(plain_file(u, sample_rate, dumped / "audio")), start_s=None) for u in utterances]
    if [u.audio for u in plain] == [u.audio for u in utterances]:
        return source
    write_data_folder(dumped / "data", plain)
    return dumped / "data"


def _record(folder: Path, request: dict[str, str], called: Path) -> None:
    """Check that the base in `folder`, which is or will be `called` so, loads, and write down what it is."""
    family = family_of(folder)
    weights = family.weights_file(folder)
    recognizer = family.load_float(folder, SearchOptions(language=AUTO), "cpu")
    parameters = sum(parameter.numel() for parameter in recognizer.network.parameters())
    facts = {"family": family.NAME, "sha256": sha256(weights), "size_bytes": weights.stat().st_size}
    write_json(folder / BASE_RECORD, {"request": request, **facts, "parameters": parameters})
    logging.info("%s: %s, %.2f M parameters, %d bytes", called, family.NAME, parameters / 1e6, facts["size_bytes"])


def _report_text(recipe: Recipe, folder: Path) -> None:
    """Match the corpus's text to the base's tokens and say what could not be matched."""
    report = Material(recipe).fit.report()
    for line in report.splitlines():
        logging.info("%s", line)
    write_text(folder / "text_fit.txt", report + "\n")
