"""English text made comparable before it is scored, so that format earns no credit."""

from collections.abc import Callable
from functools import cache


@cache
def _normalizer() -> Callable[[str], str]:
    # Imported on use: it reads a spelling table of some hundred kilobytes.
    from whisper_normalizer.english import EnglishTextNormalizer

    normalizer: Callable[[str], str] = EnglishTextNormalizer()
    return normalizer


@cache
def normalize(text: str) -> str:
    """Lower the case, unify spelling, contractions, titles and numbers, drop punctuation and fillers.

    Source: Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision", appendix C.
    """
    return " ".join(_normalizer()(text).split())
