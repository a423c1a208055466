"""Text made comparable before it is scored, so that format earns no credit."""

from collections.abc import Callable
from functools import cache, partial

ENGLISH = "en"


def normalizer_of(language: str) -> Callable[[str], str]:
    """The normaliser of a language by its code: Whisper's English one for `en`, its basic one for all others."""
    return normalize if language == ENGLISH else partial(_normalize, _basic)


def normalize(text: str) -> str:
    """Lower the case, unify English spelling, contractions, titles and numbers, drop punctuation and fillers.

    Source: Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision", appendix C.
    """
    return _normalize(_english, text)


@cache
def _normalize(make: Callable[[], Callable[[str], str]], text: str) -> str:
    return " ".join(make()(text).split())


@cache
def _english() -> Callable[[str], str]:
    # Imported on use: it reads a spelling table of some hundred kilobytes.
    from whisper_normalizer.english import EnglishTextNormalizer

    normalizer: Callable[[str], str] = EnglishTextNormalizer()
    return normalizer


@cache
def _basic() -> Callable[[str], str]:
    """Lower the case and drop punctuation; marks stay, for vowels are such in Hindi and many others."""
    from whisper_normalizer.basic import BasicTextNormalizer

    normalizer: Callable[[str], str] = BasicTextNormalizer(preserve_marks=True)
    return normalizer
