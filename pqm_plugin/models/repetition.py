"""Detect and remove repetitions in decoded text."""

import re
import zlib

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
