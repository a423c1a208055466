"""The training texts of a recipe in the style of its base, written once for all systems that learn from them."""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pqm_plugin.corpus.audio import load_audio
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.engine.data import in_model_style
from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json, write_json
from pqm_plugin.metrics.normalize import MODEL
from pqm_plugin.models.families import family_of
from pqm_plugin.stages.common.material import Material
from pqm_plugin.stages.common.opening import weights_file, weights_hash
from pqm_plugin.stages.recipe import Recipe

_SAVED = 100  # utterances after which what is written so far is kept
_LEARNED_FROM = ("sat_train", "sat_dev", "train", "dev")


def style_file(recipe: Recipe) -> Path:
    """Where the texts are kept: beside the base, for no adapter and no number of bits changes them."""
    return recipe.base_dir / "style.json"


def write_styles(recipe: Recipe) -> None:
    """Write the text of each utterance that SAT or a speaker learns from as the float base would write it.

    Nothing is done where texts are learned from as the corpus has them. What is there from an earlier run is kept, and
    a run that was cut off goes on where it was.
    """
    material = Material(recipe)
    if material.style != MODEL:
        return
    kept = _Styles(recipe, material)
    wanted = [one for split in _LEARNED_FROM for one in material.utterances(split)]
    missing = [one for one in wanted if one.utterance not in kept.texts([one])]
    if not missing:
        logging.info("%s is there already", style_file(recipe))
        return
    logging.info("the style of the model: %d utterances are decoded greedily", len(missing))
    recognizer = family_of(recipe.base_dir).load_float(recipe.base_dir, recipe.config.decode, "cpu")
    for first in range(0, len(missing), _SAVED):
        some = missing[first : first + _SAVED]
        audio = [load_audio(one, recognizer.facts.sample_rate) for one in some]
        texts = in_model_style(recognizer, audio, [material.fit.apply(one.text) for one in some])
        kept.add(zip(some, texts, strict=True))
        logging.info("the style of the model: %d of %d utterances", first + len(some), len(missing))


def styled(material: Material, utterances: Sequence[Utterance]) -> list[Utterance]:
    """The utterances with their texts as they are learned from: in the model's style, if the recipe has them so.

    Raises:
        PqmError: if the text of one was not written, see `write_styles`.
    """
    if material.style != MODEL:
        return list(utterances)
    texts = _Styles(material.recipe, material).texts(utterances)
    for one in utterances:
        if one.utterance not in texts:
            path = style_file(material.recipe)
            raise PqmError(f"{path} lacks {one.utterance}, or has it for another base: run stage 3 (quantize) again")
    return [replace(one, text=texts[one.utterance]) for one in utterances]


class _Styles:
    """What the file holds: by utterance, a hash of what the text depends on, and the text."""

    def __init__(self, recipe: Recipe, material: Material) -> None:
        self._path = style_file(recipe)
        self._made_for = {"base_sha256": weights_hash(weights_file(recipe, "full")), **material.training_request()}
        found: dict[str, Any] = read_json(self._path) if self._path.exists() else {}
        self._rows: dict[str, list[str]] = found["texts"] if found.get("made_for") == self._made_for else {}

    def texts(self, utterances: Iterable[Utterance]) -> dict[str, str]:
        """Those of these utterances that are there."""
        rows = ((one, self._rows.get(one.utterance)) for one in utterances)
        return {one.utterance: row[1] for one, row in rows if row and row[0] == _hash(one)}

    def add(self, texts: Iterable[tuple[Utterance, str]]) -> None:
        """Keep further ones, in the file too."""
        self._rows |= {one.utterance: [_hash(one), text] for one, text in texts}
        write_json(self._path, {"made_for": self._made_for, "texts": dict(sorted(self._rows.items()))})


def _hash(utterance: Utterance) -> str:
    return hashlib.sha256(repr(utterance).encode()).hexdigest()[:16]
