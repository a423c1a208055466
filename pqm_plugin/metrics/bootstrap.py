"""Significance: paired bootstrap over speakers and their utterances, and a sign test over speakers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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

    def compare(self, system: str, against: str | Sequence[str]) -> Comparison:
        """Compare two systems, or one with the mean of several, on the same resamples."""
        others = (against,) if isinstance(against, str) else tuple(against)
        return self.gain(others, (system,), others)

    def gain(self, before: Sequence[str], after: Sequence[str], of: Sequence[str]) -> Comparison:
        """Errors that go from one group of systems to another, as a share of those of a third; groups by their mean.

        A resample where both make the same errors counts half for the probability.
        """
        fewer = _sum(self.errors, before) * len(after) - _sum(self.errors, after) * len(before)
        p_improvement = float(np.mean(fewer > 0) + 0.5 * np.mean(fewer == 0))
        scale = len(before) * len(after) / len(of)
        observed_of = _sum(self.observed, of) * scale
        if not observed_of:
            return Comparison(None, (None, None), p_improvement)
        errors = _sum(self.errors, of) * scale
        shares = np.where(fewer == 0, 0.0, np.copysign(np.inf, fewer))
        np.divide(fewer, errors, out=shares, where=errors > 0)
        # No interpolation: between -inf and a number there is nothing.
        low, high = (_finite(end) for end in np.percentile(shares, [2.5, 97.5], method="inverted_cdf"))
        fewer_observed = _sum(self.observed, before) * len(after) - _sum(self.observed, after) * len(before)
        return Comparison(float(fewer_observed / observed_of), (low, high), p_improvement)


def _sum(errors: Mapping[str, Any], systems: Sequence[str]) -> Any:
    """Errors of a group of systems, as they are or in each resample; sums of integers, so that ties are ties."""
    return sum(errors[system] for system in systems)


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


@dataclass(frozen=True)
class SpeakerCounts:
    """Speakers with fewer, more, and as many word errors; `sign_test_p` is two-sided, None where nobody's differ."""

    helped: int
    harmed: int
    unchanged: int
    sign_test_p: float | None


def count_speakers(ours: Sequence[int], theirs: Sequence[int], speakers: Sequence[str]) -> SpeakerCounts:
    """Compare the errors that two systems make on the same utterances, summed by speaker.

    Source: Conover 1999, Practical Nonparametric Statistics, section 3.4: ties are left out of the sign test.

    Raises:
        ValueError: if the lengths differ.
    """
    from scipy.stats import binomtest

    sums: dict[str, int] = {}
    for speaker, our, their in zip(speakers, ours, theirs, strict=True):
        sums[speaker] = sums.get(speaker, 0) + int(their) - int(our)
    helped = sum(gain > 0 for gain in sums.values())
    harmed = sum(gain < 0 for gain in sums.values())
    p = float(binomtest(helped, helped + harmed).pvalue) if helped + harmed else None
    return SpeakerCounts(helped, harmed, len(sums) - helped - harmed, p)
