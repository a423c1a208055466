"""Audio, text and training examples of the speakers in the partition."""

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pqm_plugin.adapters.batches import Example
from pqm_plugin.adapters.options import TrainOptions
from pqm_plugin.corpus.audio import duration_s, load_audio
from pqm_plugin.corpus.kaldi import read_data_folder
from pqm_plugin.corpus.partition import Partition
from pqm_plugin.corpus.text import TextFit, fit_text
from pqm_plugin.corpus.utterance import Utterance, digest
from pqm_plugin.engine.data import Clip, examples_of, style_of
from pqm_plugin.errors import PqmError
from pqm_plugin.metrics.normalize import MODEL
from pqm_plugin.models.families import family_of
from pqm_plugin.models.interface import Recognizer
from pqm_plugin.stages.recipe import LEFT_OUT, Recipe

AS_WRITTEN = TextFit("as is", None)
"""For texts that the model wrote itself, or in whose style they are."""


@dataclass(frozen=True)
class Material:
    """The utterances of a recipe, by split and speaker."""

    recipe: Recipe

    @cached_property
    def partition(self) -> Partition:
        """Who is in which split."""
        return Partition.read(self.recipe.partition_file)

    @cached_property
    def _utterances(self) -> dict[str, Utterance]:
        sets = sorted({row.set for row in self.partition.rows})
        return {found.utterance: found for name in sets for found in read_data_folder(self.recipe.data(name))}

    def utterances(self, split: str, speaker: str | None = None) -> list[Utterance]:
        """The utterances of a split, of one speaker or of all, sorted by name."""
        names = self.partition.utterances(split, speaker)
        lost = [name for name in names if name not in self._utterances]
        if lost:
            raise PqmError(
                f"{self.recipe.partition_file} names {lost[0]}, which no data folder holds: run stage 1 again"
            )
        return [self._utterances[name] for name in names]

    def digest(self, split: str, speaker: str) -> str:
        """Hash of a speaker's utterances, see `utterance.digest`; computed once, for it asks for every file."""
        key = (split, speaker)
        if key not in self._digests:
            self._digests[key] = digest(self.utterances(split, speaker))
        return self._digests[key]

    @cached_property
    def _digests(self) -> dict[tuple[str, str], str]:
        return {}

    def speakers(self) -> list[str]:
        """The target speakers, or those of them that `--speakers` names."""
        known = self.partition.speakers("test")
        left_out = self._left_out()
        for speaker in sorted(set(self.recipe.speakers) & left_out):
            logging.warning("speaker %s was left out in stage 1, see %s", speaker, self.recipe.datadir / LEFT_OUT)
        chosen = set(self.recipe.speakers) - left_out if self.recipe.speakers else set(known)
        unknown = sorted(chosen - set(known))
        if unknown:
            raise PqmError(
                f"--speakers {' '.join(unknown)}: not among the target speakers of {self.recipe.partition_file} "
                f"({' '.join(known)}); run stage 1 with the same --speakers"
            )
        return [speaker for speaker in known if speaker in chosen]

    def has_sat(self) -> bool:
        """Whether there are speakers to pre-train on; without, adapters start from zero and `sat` is not a system."""
        return bool(self.partition.utterances("sat_train"))

    def _left_out(self) -> set[str]:
        """Speakers that stage 1 named as left out and that no split has."""
        path = self.recipe.datadir / LEFT_OUT
        rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:]] if path.exists() else []
        return {row[1] for row in rows if len(row) > 1} - {row.speaker for row in self.partition.rows}

    @cached_property
    def fit(self) -> TextFit:
        """How all texts of the recipe are fitted to what its base can spell."""
        base = self.recipe.base_dir
        texts = (utterance.text for utterance in self._utterances.values())
        return fit_text(texts, family_of(base).facts(base).symbols, self.recipe.config.text_case)

    @cached_property
    def style(self) -> str:
        """How training texts are written: `corpus` or `model`."""
        base, texts = self.recipe.base_dir, [utterance.text for utterance in self._utterances.values()]
        writes_case = family_of(base).facts(base).writes_case
        return style_of(self.recipe.config.target_style, texts, writes_case=writes_case)

    @property
    def learned_fit(self) -> TextFit:
        """How texts are fitted that are learned from: in the model's style they are what it can spell."""
        return AS_WRITTEN if self.style == MODEL else self.fit

    def training_request(self) -> dict[str, Any]:
        """How text and audio are taken, on which an adapter depends beside base, options and utterances."""
        family = family_of(self.recipe.base_dir)
        # Adapters of earlier versions were trained on texts as the corpus writes them, and say nothing of it.
        style = {"target_style": MODEL} if self.style == MODEL else {}
        return {"text_case": self.fit.case, **style, **family.training_options(self.recipe.config.decode)}


def examples(
    recognizer: Recognizer, utterances: Sequence[Utterance], fit: TextFit, joined_s: float = 0.0
) -> list[Example]:
    """Features and tokens of each utterance, or of as many at once as fit into `joined_s`; audio is read once.

    What the base cannot be trained on, or of whose text nothing can be spelled, is named and left out.
    """
    return _examples(recognizer, filled(utterances, joined_s), fit)


def joined_samples(utterances: Sequence[Utterance], sample_rate: int) -> np.ndarray:
    """The audio of utterances one after another, float32 (n_samples,)."""
    return np.concatenate([load_audio(utterance, sample_rate) for utterance in utterances])


def training_examples(
    recognizer: Recognizer,
    utterances: Sequence[Utterance],
    fit: TextFit,
    options: TrainOptions,
    seed: int,
) -> list[Example]:
    """What is trained on: each utterance by itself, several of a speaker joined, or both, as `options` asks for.

    An utterance that fits into no joined example is by itself in any case.
    """
    joined = [
        group for copy in range(options.joined_copies) for group in _groups(utterances, options.joined_s, seed + copy)
    ]
    found = {utterance.utterance for group in joined for utterance in group} if options.joined_alone else set()
    alone = [[utterance] for utterance in utterances if utterance.utterance not in found]
    return _examples(recognizer, alone + joined, fit)


def filled(utterances: Sequence[Utterance], longest_s: float) -> list[list[Utterance]]:
    """Utterances in their order, in groups of `longest_s` seconds at most or of one; with 0 each by itself."""
    groups: list[list[Utterance]] = []
    room_s = 0.0
    for utterance in utterances:
        room_s -= duration_s(utterance) if longest_s else 0.0
        if groups and longest_s and room_s >= 0:
            groups[-1].append(utterance)
        else:
            groups.append([utterance])
            room_s = longest_s - (duration_s(utterance) if longest_s else 0.0)
    return groups


def _groups(utterances: Sequence[Utterance], longest_s: float, seed: int) -> list[list[Utterance]]:
    """Utterances of one speaker in an order by chance, as many as fit into a length by chance, two at least."""
    chance = random.Random(seed)
    by_speaker: dict[str, list[Utterance]] = {}
    for utterance in utterances if longest_s else ():
        by_speaker.setdefault(utterance.speaker, []).append(utterance)
    groups = []
    for speaker in sorted(by_speaker):
        left = chance.sample(by_speaker[speaker], len(by_speaker[speaker]))
        while left:
            room_s = chance.uniform(longest_s / 3, longest_s)
            group: list[Utterance] = []
            while left and (room_s := room_s - duration_s(left[-1])) >= 0:
                group.append(left.pop())
            if len(group) > 1:
                groups.append(group)
            elif not group:
                left.pop()
    return groups


def _examples(recognizer: Recognizer, groups: Sequence[Sequence[Utterance]], fit: TextFit) -> list[Example]:
    clips = (_clip(group, recognizer.facts.sample_rate) for group in groups)
    return [example for _, example in examples_of(recognizer, clips, fit)]


def _clip(group: Sequence[Utterance], sample_rate: int) -> Clip:
    """Utterances one after another as one."""
    name = " + ".join(utterance.utterance for utterance in group)
    return Clip(name, joined_samples(group, sample_rate), " ".join(utterance.text for utterance in group))
