"""How much speech the adapters that are scored have learned from."""

import logging

from pqm_plugin.corpus.audio import duration_s
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError
from pqm_plugin.stages.adapting.speech import SHARES, allowed_speech
from pqm_plugin.stages.common.material import Material
from pqm_plugin.stages.recipe import Recipe


def adaptation_minutes(recipe: Recipe) -> dict[str, float]:
    """Minutes of each target speaker, train and dev together, within what `adapt_minutes` allows.

    Empty, and a warning, where a recording is gone: to score, none is needed.
    """
    material = Material(recipe)
    try:
        return {
            speaker: round(
                sum(_seconds(one) for split in SHARES for one in allowed_speech(material, split, speaker)) / 60, 2
            )
            for speaker in material.speakers()
        }
    except PqmError as error:
        logging.warning("minutes of adaptation speech are not known: %s", error)
        return {}


def _seconds(utterance: Utterance) -> float:
    if utterance.end_s is None:
        return duration_s(utterance)
    return utterance.end_s - (utterance.start_s or 0.0)
