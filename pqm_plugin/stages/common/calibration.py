"""What stage 3 hears of the SAT speakers, and how it rounds weights by that."""

import functools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from tqdm import tqdm

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
        """The SAT training utterances that are heard, evenly spread over all of them; none without calibration.

        Raises:
            PqmError: if there are no SAT speakers.
        """
        n = self.config.calibrate
        if not n:
            return []
        every = self._material.utterances("sat_train")
        if not every:
            raise PqmError(
                f"{self.recipe.partition_file} has no SAT speakers to calibrate on: give --sat_sets, or "
                "quantize.calibrate: 0 in --pqm_config"
            )
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
        ready = examples(recognizer, self.utterances, self._material.fit)
        if not ready:
            raise PqmError(f"{self.recipe.partition_file}: none of {len(self.utterances)} SAT utterances can be used")
        logging.info("rounding weights by %d utterances of SAT speakers", len(ready))
        for each in tqdm(ready, desc="listen", unit="utterance"):
            yield each.features, each.tokens
