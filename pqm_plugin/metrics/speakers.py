"""How many speakers a system helps: counts, and a test that rests on no assumption about their sizes."""

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binomtest


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
    sums: dict[str, int] = {}
    for speaker, our, their in zip(speakers, ours, theirs, strict=True):
        sums[speaker] = sums.get(speaker, 0) + int(their) - int(our)
    helped = sum(gain > 0 for gain in sums.values())
    harmed = sum(gain < 0 for gain in sums.values())
    p = float(binomtest(helped, helped + harmed).pvalue) if helped + harmed else None
    return SpeakerCounts(helped, harmed, len(sums) - helped - harmed, p)
