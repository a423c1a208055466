"""A joint search that repeats itself: the CTC layer, which cannot, has the word.

An attention decoder may go round in circles where the share of the CTC score is small. The best path of the CTC layer
is bound to the frames of the audio.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from pqm_plugin.models.interface import Hypothesis
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.models.repetition import compression_ratio, without_repetition

_log = logging.getLogger(__name__)


def without_loops(
    found: Sequence[Hypothesis], search: SearchOptions, ctc_words: Callable[[], list[str]] | None
) -> list[Hypothesis]:
    """The hypotheses of a batch; one that repeats itself gives way to what the CTC layer heard, or is cut.

    The score of such a one is still the search's.

    Args:
        ctc_words: gives the words of the best CTC path of each row; None where they cannot be had.
    """
    most = search.compression_ratio_threshold
    repeating = [place for place, each in enumerate(found) if compression_ratio(each.text) > most]
    if search.guard != "always" or not repeating:
        return list(found)
    heard, mended = ctc_words() if ctc_words else [], list(found)
    for place in repeating:
        other = heard[place] if heard else ""
        text = other if 0 < compression_ratio(other) <= most else without_repetition(found[place].text, most)
        mended[place] = replace(found[place], text=text, is_repaired=True)
        _log.warning(
            "the search repeated itself (%.40r…): %s",
            found[place].text,
            f"{text[:80]!r} is taken" if text else "no words are taken",
        )
    return mended
