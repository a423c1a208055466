"""Training texts in the style of the model that learns from them."""

import logging
from collections.abc import Sequence

import numpy as np
import torch

from pqm_plugin.metrics.style import CORPUS, MODEL, in_style, is_styled
from pqm_plugin.models.interface import Recognizer

_log = logging.getLogger(__name__)


def style_of(option: str, texts: Sequence[str], *, writes_case: bool) -> str:
    """What `auto` stands for: `model` where the model writes case and punctuation and no text has any.

    Args:
        option: `auto`, `corpus` or `model`.
        texts: all references of a corpus, or of a speaker.
        writes_case: of the model, see `interface.Facts`.
    """
    if option != "auto":
        return option
    return MODEL if writes_case and not is_styled(texts) else CORPUS


def in_model_style(recognizer: Recognizer, audio: Sequence[np.ndarray], texts: Sequence[str]) -> list[str]:
    """Each text as the recogniser would write it, by its own greedy hypothesis of the audio, see `metrics.style`.

    Args:
        audio: float32 (n_samples,) in [-1, 1] at the recogniser's rate, one for each text. What is longer than the
            recogniser searches at once is searched in pieces.
    """
    was_training = recognizer.network.training
    recognizer.network.eval()
    written = []
    with torch.no_grad():
        for samples, text in zip(audio, texts, strict=True):
            pieces = recognizer.pieces(samples)
            heard = " ".join(recognizer.greedy([recognizer.features(piece) for piece in pieces]))
            written.append(in_style(text, heard))
    recognizer.network.train(was_training)
    _log.info("%d texts in the style of the model, such as: %s", len(written), next(iter(written), ""))
    return written
