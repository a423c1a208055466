"""The speech that stage 3 rounds weights by: of the SAT speakers, or what the targets' adapters are trained on."""

import functools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pqm_plugin.adapters.batches import Example
from pqm_plugin.corpus.audio import load_audio
from pqm_plugin.corpus.utterance import Utterance, digest
from pqm_plugin.errors import PqmError
from pqm_plugin.models.families import family_of
from pqm_plugin.models.interface import Recognizer
from pqm_plugin.quantize.packed import WeightFormat
from pqm_plugin.stages.common.material import Material, examples
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
            whose, ready = "SAT speakers", examples(recognizer, self.utterances, self._material.fit)
        else:
            # What a target's adapter may learn from must not have taught its base before, so by the model's own words.
            whose, ready = "target speakers, by the model's own words", self._untranscribed(recognizer)
        if not ready:
            raise PqmError(f"{self.recipe.partition_file}: none of {len(self.utterances)} utterances can be used")
        logging.info("rounding weights by %d utterances of %s", len(ready), whose)
        for each in tqdm(ready, desc="listen", unit="utterance"):
            yield each.features, each.tokens

    def _untranscribed(self, recognizer: Recognizer) -> list[Example]:
        """Each utterance with the words that the model finds, of a loop no more than can be computed."""
        found = []
        with torch.no_grad():
            for utterance in self.utterances:
                features = recognizer.features(load_audio(utterance, recognizer.facts.sample_rate))
                tokens = recognizer.token_ids(recognizer.greedy([features])[0])
                while len(tokens) and recognizer.obstacle(features, tokens):
                    tokens = tokens[: len(tokens) // 2]
                if len(tokens):
                    found.append(Example(features, tokens))
        return found
