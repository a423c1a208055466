"""Paired hierarchical bootstrap: speakers are drawn with replacement, then utterances within each drawn speaker."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CHUNK = 500  # resamples held in memory at a time: 500 x 5,000 utterances of float64 are 20 MB


@dataclass(frozen=True)
class Comparison:
    """How many fewer word errors one system makes than another.

    The reduction is relative and negative where there are more errors; it is None where the other system makes no
    error. An end of the interval is None where it is unbounded.
    """

    relative_wer_reduction: float | None
    ci95: tuple[float | None, float | None]
    p_improvement: float


@dataclass(frozen=True)
class Resampled:
    """Errors and words of the very same resamples for every system.

    Attributes:
        observed: errors of each system in the data as they are.
        errors: for each system, int64 of shape (n_resamples,).
        words: int64 of shape (n_resamples,).
    """

    observed: Mapping[str, int]
    errors: Mapping[str, NDArray[np.int64]]
    words: NDArray[np.int64]

    def interval(self, system: str) -> tuple[float, float]:
        """Percentile interval of the WER, 95 %; resamples without a reference word are left out."""
        spoken = self.words > 0
        low, high = np.percentile(self.errors[system][spoken] / self.words[spoken], [2.5, 97.5])
        return float(low), float(high)

    def compare(self, system: str, against: str) -> Comparison:
        """Compare two systems on the same resamples; a resample where both make the same errors counts half."""
        ours, theirs = self.errors[system], self.errors[against]
        p_improvement = float(np.mean(ours < theirs) + 0.5 * np.mean(ours == theirs))
        if not self.observed[against]:
            return Comparison(None, (None, None), p_improvement)
        reductions = np.where(ours == theirs, 0.0, -np.inf)
        np.divide(theirs - ours, theirs, out=reductions, where=theirs > 0)
        # No interpolation: between -inf and a number there is nothing.
        low, high = (_finite(end) for end in np.percentile(reductions, [2.5, 97.5], method="inverted_cdf"))
        return Comparison(1 - self.observed[system] / self.observed[against], (low, high), p_improvement)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def resample(
    errors: Mapping[str, Sequence[int]],
    words: Sequence[int],
    speakers: Sequence[str],
    seed: int,
    n_resamples: int = 10_000,
) -> Resampled:
    """Draw the resamples and sum each system's errors in them.

    Args:
        errors: for each system, errors of each utterance.
        words: reference words of each utterance.
        speakers: speaker of each utterance. With one speaker alone, the intervals cover utterances and not speakers.
        seed: the same seed and data give the same resamples.
        n_resamples: at least 1.

    Raises:
        ValueError: if the lengths differ, or there is no utterance.
    """
    systems = list(errors)
    n_utterances = len(words)
    if not n_utterances or any(len(column) != n_utterances for column in [speakers, *errors.values()]):
        raise ValueError(f"need one speaker and one error count a system for each of {n_utterances} > 0 utterances")
    table = np.array([*(errors[system] for system in systems), words], dtype=np.float64).T  # (utterances, systems + 1)
    members = [np.flatnonzero(np.array(speakers) == speaker) for speaker in sorted(set(speakers))]
    rng = np.random.default_rng(seed)
    sizes = [min(_CHUNK, n_resamples - start) for start in range(0, n_resamples, _CHUNK)]
    # Sums of small integers are exact in float64, so the order of summation and the number of threads do not matter.
    sums = np.concatenate([_draw(rng, members, n_utterances, size) @ table for size in sizes]).astype(np.int64)
    return Resampled(
        observed={system: int(sum(errors[system])) for system in systems},
        errors={system: sums[:, column] for column, system in enumerate(systems)},
        words=sums[:, -1],
    )


def _draw(
    rng: np.random.Generator, members: Sequence[NDArray[np.intp]], n_utterances: int, n_resamples: int
) -> NDArray[np.float64]:
    """Draw how often each utterance is in each resample, float64 of shape (n_resamples, n_utterances).

    A speaker of n utterances who was drawn m times gives m times n draws, uniform over his utterances: a multinomial.
    """
    n_speakers = len(members)
    times_drawn = rng.multinomial(n_speakers, np.full(n_speakers, 1 / n_speakers), size=n_resamples)
    weights = np.zeros((n_resamples, n_utterances))
    for speaker, places in enumerate(members):
        n_draws = times_drawn[:, speaker] * len(places)
        weights[:, places] = rng.multinomial(n_draws, np.full(len(places), 1 / len(places)))
    return weights
