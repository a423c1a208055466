"""The model's confidence in its words, and which of them are trained on."""

import math
from collections.abc import Mapping, Sequence

from pqm_plugin.models.interface import Hypothesis


def confidence(score: float, n_tokens: int) -> float:
    """Geometric mean probability, in [0, 1], of a hypothesis's tokens and its end.

    Args:
        score: log probability of the whole hypothesis, in nats.
        n_tokens: its tokens without start and end.
    """
    return min(1.0, math.exp(min(0.0, score / (n_tokens + 1)))) if math.isfinite(score) else 0.0


def sureness(found: Hypothesis) -> float:
    """The confidence in a hypothesis; none in the words that are left of a search that repeated itself."""
    if not found.text:
        return 1.0
    return 0.0 if found.is_repaired else confidence(found.score, found.n_tokens)


def pick(confidences: Sequence[float], texts: Sequence[str], threshold: float) -> list[int]:
    """Indices of the utterances to train on, in their order: those with words, at least as sure as `threshold`.

    Source: Kahn et al. 2020 (self-training for end-to-end speech recognition), section 3.2: filtering by the
    normalised log probability.
    """
    rows = enumerate(zip(confidences, texts, strict=True))
    return [index for index, (sure, text) in rows if text.strip() and sure >= threshold]


def held_out(n_clips: int) -> list[int]:
    """Indices of the recordings that choose the epoch: every fifth, of three or four the last, of fewer none.

    They are in the order in which they were given; every fifth is spread over the whole session.
    """
    if n_clips < 3:
        return []
    return list(range(4, n_clips, 5)) or [n_clips - 1]


def summary(picked: Sequence[int], confidences: Sequence[float]) -> Mapping[str, float]:
    """What the choice was, for the adapter's record: counts, and the mean confidence of all."""
    mean = sum(confidences) / len(confidences) if confidences else 0.0
    return {"n_heard": len(confidences), "n_kept": len(picked), "mean_confidence": mean}
