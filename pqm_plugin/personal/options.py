"""Default options of search and enrolment."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from pqm_plugin.adapters.options import LATER, LoraOptions, TrainOptions
from pqm_plugin.errors import PqmError
from pqm_plugin.metrics.normalize import STYLES
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.personal.folder import ModelFolder
from pqm_plugin.settings import fill

JUDGED = 10
"""Recordings of which it can be said whether an adapter helps: of fewer, chance says as much."""


@dataclasses.dataclass(frozen=True)
class EnrollOptions:
    """How a speaker is enrolled.

    `targets`, `rank`, `alpha` and `dropout` shape an adapter that starts from zero; one that starts from `sat` has its
    shape. `rank` 4 on the attention layers is under 1 % of a Conformer of 15 M parameters, or of a Whisper base.
    `few_epochs` is for one or two recordings, of which none can be spared to choose the epoch. `min_confidence` in
    [0, 1] is what the model's own words must reach to be trained on, see `confidence.pick`. `target_style` is how the
    training texts are written: `corpus` as they are given, `model` in the case and punctuation of the model's
    own hypothesis, `auto` for the latter where the model writes both and the texts have neither.

    `folds` is into how many blocks recordings are parted to see what an adapter does for those that it was not trained
    on, see `engine.judging`; 0 sees nothing. It is done from `JUDGED` recordings with texts on. `keep` is `better` for
    the speaker-independent model where the held-out words get no better, or `own` for the new adapter in any case.
    """

    targets: str = "attention"
    rank: int = 4
    alpha: float = 16.0
    dropout: float = 0.1
    epochs: int = 6
    few_epochs: int = 3
    learning_rate: float = 1e-3
    decay: float = 0.8
    patience: int = 2
    min_confidence: float = 0.6
    seed: int = 0
    folds: int = dataclasses.field(default=3, metadata=LATER)
    keep: str = dataclasses.field(default="better", metadata=LATER)
    target_style: str = dataclasses.field(default="auto", metadata=LATER)

    def __post_init__(self) -> None:
        if self.target_style not in STYLES:
            raise ValueError(f"target_style {self.target_style!r}: use one of {', '.join(STYLES)}")
        if self.folds not in (0, *range(2, JUDGED + 1)):
            raise ValueError(f"folds {self.folds}: use a number from 2 to {JUDGED}, or 0 to leave the check out")
        if self.keep not in ("better", "own"):
            raise ValueError(f"keep {self.keep!r}: use 'better' or 'own'")
        if not (1 <= self.rank <= 256 and self.epochs >= 1 and self.few_epochs >= 1 and self.learning_rate > 0):
            raise ValueError("rank is from 1 to 256, epochs and few_epochs from 1, learning_rate above 0")
        if not 0 <= self.min_confidence <= 1:
            raise ValueError(f"min_confidence {self.min_confidence}: use a number from 0 to 1")

    def lora(self) -> LoraOptions:
        """The shape of an adapter that starts from zero; how large it is is left to `rank`."""
        return LoraOptions(self.targets, self.rank, self.alpha, self.dropout, max_fraction=math.inf)

    def training(self, n_clips: int) -> TrainOptions:
        """The training of so many recordings; few say so little that loss tells epochs apart better than accuracy."""
        return TrainOptions(
            epochs=self.epochs if n_clips > 2 else self.few_epochs,
            learning_rate=self.learning_rate,
            decay=self.decay,
            patience=self.patience if n_clips > 2 else 0,
            criterion="loss",
        )


def search_options(about: Mapping[str, Any]) -> SearchOptions:
    """The search that a model's maker set, see `ABOUT`; defaults for the rest."""
    return fill(SearchOptions, about.get("decode", {}), "about.json: decode")


def in_language(folder: ModelFolder, search: SearchOptions, language: str | None = None) -> SearchOptions:
    """A search in `language`, by default its own, as the code that the model has for it.

    Raises:
        PqmError: if the model does not know the language, or is of a family that cannot be told any.
    """
    if language is None and search.language == SearchOptions().language:
        return search
    from pqm_plugin.models.families import family_of

    family = family_of(folder.path)
    if language is not None and not family.CHOOSES_LANGUAGE:
        raise PqmError(
            f"language {language!r}: a model of {family.NAME} writes what it was trained on and cannot be told: leave "
            "--language out"
        )
    return dataclasses.replace(search, language=family.spoken_language(folder.path, language or search.language))


def enroll_options(about: Mapping[str, Any]) -> EnrollOptions:
    """The enrolment that a model's maker set, see `ABOUT`; defaults for the rest."""
    return fill(EnrollOptions, about.get("enroll", {}), "about.json: enroll")
