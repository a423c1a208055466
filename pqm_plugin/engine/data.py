"""From speech with its words to what an adapter is trained on."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch

from pqm_plugin.adapters.batches import Example
from pqm_plugin.corpus.text import TextFit
from pqm_plugin.models.interface import Recognizer

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Clip:
    """A stretch of speech, float32 (n_samples,) at the model's rate, with its words; `name` is for the log."""

    name: str
    samples: np.ndarray
    text: str


def examples_of(
    recognizer: Recognizer,
    clips: Iterable[Clip],
    fit: TextFit,
    reason_unusable: Callable[[np.ndarray], str] = lambda samples: "",
) -> list[tuple[Clip, Example]]:
    """Each stretch with its features and tokens; one that cannot be trained on is named in the log and left out.

    Args:
        fit: brings the words to what the model can spell.
        reason_unusable: says of samples (n_samples,) why nobody can learn from them, "" if one can.
    """
    ready = []
    for clip in clips:
        reason = reason_unusable(clip.samples)
        tokens = recognizer.token_ids(fit.apply(clip.text)) if clip.text.strip() else torch.zeros(0)
        reason = reason or ("" if len(tokens) else "it has no text that can be spelled")
        if not reason:
            features = recognizer.features(clip.samples)
            reason = recognizer.obstacle(features, tokens)
        if reason:
            _log.warning("%s is left out: %s", clip.name, reason)
        else:
            ready.append((clip, Example(features, tokens)))
    return ready
