"""Detect and remove repetitions in decoded text."""

import logging
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace

from pqm_plugin.models.interface import Hypothesis
from pqm_plugin.models.options import SearchOptions

_log = logging.getLogger(__name__)
_RUN = re.compile(r"(.{1,300}?)\1{3,}", re.I | re.S)
# A shorter run may be spelled so: 100000, hmmmmm.
_SHORTEST_RUN = 12


def compression_ratio(text: str) -> float:
    """How many times smaller zlib makes `text`: ordinary texts of an utterance stay below 2.4.

    A character counts as one byte. Scripts that UTF-8 spells in two or three bytes with the same beginnings, such as
    Devanagari, would else pass for repetitions.

    Source: openai-whisper, `utils.compression_ratio`, which gives the same for ASCII.
    """
    if not text:
        return 0.0
    symbols = {symbol: place for place, symbol in enumerate(sorted(set(text)))}
    if text.isascii():
        data = text.encode("ascii")
    elif len(symbols) <= 256:
        data = bytes(symbols[symbol] for symbol in text)
    else:
        data = text.encode("utf-16-le")
    return len(data) / len(zlib.compress(data))


def without_repetition(text: str, threshold: float) -> str:
    """The text with one of what stands there four times or more in a row; nothing if it still repeats itself.

    Args:
        threshold: of the compression ratio, above which a text repeats itself.
    """
    once = _RUN.sub(_once, f"{text} ").strip()
    has_words = any(symbol.isalnum() for symbol in once)
    return once if has_words and compression_ratio(once) <= threshold else ""


def _once(run: re.Match[str]) -> str:
    return run[1] if len(run[0]) >= _SHORTEST_RUN else run[0]


def without_loops(
    found: Sequence[Hypothesis], search: SearchOptions, ctc_words: Callable[[], list[str]] | None
) -> list[Hypothesis]:
    """The hypotheses of a batch; one that repeats itself gives way to what the CTC layer heard, or is cut.

    An attention decoder may go round in circles where the share of the CTC score is small; the best path of the CTC
    layer is bound to the frames of the audio. The score of such a one is still the search's.

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
