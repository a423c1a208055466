"""Training examples of adapters from audio and transcripts, in the style of the model where wanted."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from pqm_plugin.adapters.batches import Example
from pqm_plugin.corpus.text import TextFit
from pqm_plugin.metrics.normalize import CORPUS, MODEL, in_style, is_styled
from pqm_plugin.models.interface import Recognizer
from pqm_plugin.progress import Bar

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
        reason_unusable: says of samples (n_samples,) why they cannot be trained on, "" if they can.
    """
    ready = []
    for clip in clips:
        reason = reason_unusable(clip.samples)
        tokens = recognizer.token_ids(fit.apply(clip.text)) if clip.text.strip() else torch.zeros(0)
        reason = reason or ("" if len(tokens) else "it has no text that can be spelled")
        if not reason:
            features = recognizer.features(clip.samples)
            reason = recognizer.reason_untrainable(features, tokens)
        if reason:
            _log.warning("%s is left out: %s", clip.name, reason)
        else:
            ready.append((clip, Example(features, tokens)))
    return ready


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
    pieces = [recognizer.pieces(samples) for samples in audio]
    every = [piece for those in pieces for piece in those]
    heard: list[str] = []
    with torch.no_grad(), Bar(total=len(every), desc="style", unit="piece") as progress:
        for first in range(0, len(every), recognizer.max_batch):
            some = every[first : first + recognizer.max_batch]
            heard += recognizer.greedy([recognizer.features(piece) for piece in some])
            progress.update(len(some))
    recognizer.network.train(was_training)
    left = iter(heard)
    written = [in_style(text, " ".join(islice(left, len(those)))) for text, those in zip(texts, pieces, strict=True)]
    _log.info("%d texts in the style of the model, such as: %s", len(written), next(iter(written), ""))
    return written
