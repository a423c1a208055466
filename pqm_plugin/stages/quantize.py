"""Stage 3: quantise the base to 4 bits, with the speech that calibrates it."""

import dataclasses
import functools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pqm_plugin.adapters.batches import Example
from pqm_plugin.corpus.utterance import Utterance, digest
from pqm_plugin.engine.packing import Packing, pack
from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json, whole_folder, write_json
from pqm_plugin.models.families import family_of
from pqm_plugin.models.interface import Recognizer
from pqm_plugin.progress import Bar
from pqm_plugin.quantize.checkpoint import FORMAT_VERSION
from pqm_plugin.quantize.modes import ABOUT, META, PACKED
from pqm_plugin.quantize.packed import WeightFormat
from pqm_plugin.records import is_done
from pqm_plugin.settings import as_dict
from pqm_plugin.stages.common.material import Material, examples, filled, joined_samples
from pqm_plugin.stages.common.opening import ROUNDED, weights_file, weights_hash
from pqm_plugin.stages.common.style import write_styles
from pqm_plugin.stages.common.systems import packed_kinds
from pqm_plugin.stages.config import QuantizeConfig
from pqm_plugin.stages.recipe import Recipe


def weight_format(config: QuantizeConfig) -> WeightFormat:
    """The part of the configuration that one tensor knows."""
    return WeightFormat(config.quant_type, config.block_size, config.double_quantize)


@dataclass(frozen=True)
class Calibration:
    """A packed model's configuration, and the speech that its weights are rounded by."""

    recipe: Recipe
    config: QuantizeConfig

    @functools.cached_property
    def _material(self) -> Material:
        return Material(self.recipe)

    @functools.cached_property
    def utterances(self) -> Sequence[Utterance]:
        """Training utterances, evenly spread over all of them: of SAT speakers, or else of the targets, never test.

        None without calibration.
        """
        n = self.config.calibrate
        if not n:
            return []
        every = self._material.utterances("sat_train") or self._material.utterances("train")
        n = min(n, len(every))
        return [every[place * len(every) // n] for place in range(n)]

    def request(self) -> dict[str, Any]:
        """What the packed model depends on beside the base and the configuration; empty without calibration."""
        if not self.utterances:
            return {}
        recipe = self.recipe
        options = family_of(recipe.base_dir).training_options(recipe.config.decode)
        return {
            "calibration": digest(self.utterances),
            "text_case": self._material.fit.case,
            **options,
        }

    def examples(self, recognizer: Recognizer) -> Iterator[tuple[Tensor, Tensor]]:
        """Features and tokens of each utterance, as the engine calibrates on them.

        Raises:
            PqmError: if none of them can be used.
        """
        if self._material.has_sat():
            whose = "SAT speakers"
            ready = examples(recognizer, self.utterances, self._material.fit, self.config.joined_s)
        else:
            # Transcripts that a target's adapter may be trained on must not shape its base: the model's own words do.
            whose, ready = "target speakers, by the model's own words", self._untranscribed(recognizer)
        if not ready:
            raise PqmError(f"{self.recipe.partition_file}: none of {len(self.utterances)} utterances can be used")
        logging.info("rounding weights by %d utterances of %s", len(self.utterances), whose)
        for each in Bar(ready, desc="calibrate", unit="example"):
            yield each.features, each.tokens

    def _untranscribed(self, recognizer: Recognizer) -> list[Example]:
        """What is heard at once with the words that the model finds, of a loop no more than can be computed."""
        found = []
        with torch.no_grad():
            for group in filled(self.utterances, self.config.joined_s):
                features = recognizer.features(joined_samples(group, recognizer.facts.sample_rate))
                tokens = recognizer.token_ids(recognizer.greedy([features])[0])
                while len(tokens) and recognizer.reason_untrainable(features, tokens):
                    tokens = tokens[: len(tokens) // 2]
                if len(tokens):
                    found.append(Example(features, tokens))
        return found


KEEP = "quantize.keep"
"""What a message calls the option that names layer kinds to leave out."""


def run(recipe: Recipe) -> None:
    """Pack the base's weights, measure what that cost, check that the file loads; write down how the base writes."""
    for kind in packed_kinds(recipe):
        config = recipe.config.quantize
        if kind == ROUNDED:
            config = dataclasses.replace(config, calibrate=0)
        _pack(recipe, recipe.adapter_dir(kind), config)
        _say_how_to_search(recipe, recipe.adapter_dir(kind) / ABOUT)
    write_styles(recipe)


def _pack(recipe: Recipe, target: Path, config: QuantizeConfig) -> None:
    source = weights_file(recipe, "full")
    calibration = Calibration(recipe, config)
    request = {
        "base_sha256": weights_hash(source),
        "quantize": as_dict(config),
        "format_version": FORMAT_VERSION,
        **calibration.request(),
    }
    if is_done(target / META, request, f"packed model {target}") and (target / PACKED).is_file():
        logging.info("%s is there already", target / PACKED)
        return
    family = family_of(recipe.base_dir)
    recognizer = family.load_float(recipe.base_dir, recipe.config.decode, "cpu")
    speech = calibration.examples if calibration.utterances else None
    with whole_folder(target.with_name(f"{target.name}.new")) as scratch:
        measured = pack(family, recognizer, recipe.base_dir, scratch, packing_of(config), KEEP, speech)
        meta = {"request": request, **measured}
        write_json(scratch / META, meta)
    _move_in(target)
    _report(meta)


def _say_how_to_search(recipe: Recipe, about: Path) -> None:
    """Keep the recipe's own search, not a second one, where `pqm` finds it when a person uses the model."""
    search = dataclasses.replace(recipe, inference_config=None).config.decode
    said = read_json(about) if about.exists() else {}
    write_json(about, {**said, "decode": as_dict(search)})


def _move_in(target: Path) -> None:
    """Put the new files into the packed folder, meta.json last: it is what says that the stage is done."""
    fresh = target.with_name(f"{target.name}.new")
    target.mkdir(parents=True, exist_ok=True)
    (target / META).unlink(missing_ok=True)
    for path in sorted(fresh.iterdir(), key=lambda path: path.name == META):
        path.replace(target / path.name)
    fresh.rmdir()


def packing_of(config: QuantizeConfig) -> Packing:
    """What the section `quantize` of a configuration says, as it is packed."""
    return Packing(weight_format(config), config.rest_dtype, config.keep)


def _report(meta: dict[str, Any]) -> None:
    for row in meta["kinds"]:
        logging.info(
            "quantised %-22s %3d layers %9d parameters %9d bytes, relative error %.4f",
            *(row[key] for key in ("kind", "layers", "parameters", "size_bytes", "relative_error")),
        )
    kept = meta["request"]["quantize"]["keep"]
    logging.info(
        "not quantised: %d of %d parameters (biases, normalisations%s), kept as %s",
        *(meta["parameters_not_quantized"], meta["parameters"], "".join(f", {kind}" for kind in kept)),
        meta["request"]["quantize"]["rest_dtype"],
    )
    logging.info(
        "%d bytes, %.2f times smaller than the float32 file of %d bytes",
        *(meta["size_bytes"], meta["ratio"], meta["base_size_bytes"]),
    )
