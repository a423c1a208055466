"""What a speaker's adapter learns from: the speech that is allowed, with transcripts or with the model's own words."""

import dataclasses
import logging
from collections.abc import Sequence

from pqm_plugin.corpus.audio import duration_s
from pqm_plugin.corpus.text import TextFit
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.models.repetition import compression_ratio
from pqm_plugin.stages.common.material import Material
from pqm_plugin.stages.common.systems import Voices, parse_system
from pqm_plugin.stages.decoding.task import DecodeTask

SHARES = {"train": 2 / 3, "dev": 1 / 3}
"""Of `adapt_minutes`: as the partition's 40 % and 20 % are."""
_AS_HEARD = TextFit("as is", None)


@dataclasses.dataclass(frozen=True)
class Speech:
    """A speaker's utterances, and how their texts are fitted to the base."""

    train: Sequence[Utterance]
    dev: Sequence[Utterance]
    fit: TextFit


def speech_of(material: Material, voices: Voices, speaker: str) -> Speech:
    """The utterances to learn from; without transcripts those that the model is sure enough of."""
    allowed = {split: allowed_speech(material, split, speaker) for split in SHARES}
    if not voices.rounds:
        return Speech(**allowed, fit=material.fit)
    heard = {split: _heard(material, voices, speaker, split, found) for split, found in allowed.items()}
    return Speech(**heard, fit=_AS_HEARD)


def allowed_speech(material: Material, split: str, speaker: str) -> list[Utterance]:
    """The first utterances of a split, as many as fit into its share of `adapt_minutes`, one at least; 0 is all."""
    utterances = material.utterances(split, speaker)
    left_s = 60 * material.recipe.config.adapt_minutes * SHARES[split]
    if not left_s:
        return utterances
    chosen: list[Utterance] = []
    for utterance in utterances:
        left_s -= duration_s(utterance)
        if chosen and left_s < 0:
            break
        chosen.append(utterance)
    return chosen


def first_pass(material: Material, voices: Voices) -> list[DecodeTask]:
    """The decodes whose words the adapters learn from: by the round before, and first by what there is without one.

    They are searched for as `pqm_config` says: a second decoding setting is for what is measured, not for what is
    learned.
    """
    recipe, baselines = dataclasses.replace(material.recipe, inference_config=None, tag=""), ()
    if voices.rounds > 1:
        before = Voices(voices.base_kind, voices.rounds - 1)
        key = f"{voices.base_kind}+{before.folder.replace('speakers', 'speaker')}"
    else:
        key = f"{voices.base_kind}+sat" if material.has_sat() else voices.base_kind
    system = parse_system(key, baselines)
    decoded = {split: recipe.decoded(recipe.target_set, split) for split in SHARES}
    return [DecodeTask(recipe, system, decoded[split], split, material.speakers()) for split in SHARES]


def _heard(
    material: Material, voices: Voices, speaker: str, split: str, allowed: Sequence[Utterance]
) -> list[Utterance]:
    """The allowed utterances of which the model is sure, with its own words for texts; the surest one at least.

    A text that repeats itself is none, however sure the model is of it.
    """
    [task] = [task for task in first_pass(material, voices) if task.split == split]
    lines = {line.utterance: line for line in task.part(material, speaker).lines}
    most = material.recipe.config.decode.compression_ratio_threshold
    said = [one for one in allowed if 0 < compression_ratio(lines[one.utterance].text) <= most]
    confidence = {utterance.utterance: lines[utterance.utterance].confidence for utterance in said}
    least = material.recipe.config.unsupervised.min_confidence
    sure = [utterance for utterance in said if confidence[utterance.utterance] >= least]
    sure = sure or sorted(said, key=lambda utterance: -confidence[utterance.utterance])[:1]
    logging.info("%s: sure of %d of %d %s utterances", speaker, len(sure), len(allowed), split)
    return [dataclasses.replace(utterance, text=lines[utterance.utterance].text) for utterance in sure]
