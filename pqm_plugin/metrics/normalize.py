"""Normalise text before scoring, and write references in the style of a model: its case and punctuation."""

import re
from collections.abc import Callable, Iterable
from functools import cache, partial

import jiwer

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


CORPUS, MODEL = "corpus", "model"
STYLES = ("auto", CORPUS, MODEL)
_MOST_WRONG = 0.5  # of the reference's words: a hypothesis with more errors tells nothing about style
_SENTENCE_ENDS = (".", "?", "!")
_WORD = re.compile(r"[^\W_]+(?:['’.&][^\W_]+)*")


def is_styled(texts: Iterable[str]) -> bool:
    """Whether texts have both cases of letters, or sentence punctuation: whether they are written as people write."""
    lower = upper = False
    for text in texts:
        lower = lower or any(char.islower() for char in text)
        upper = upper or any(char.isupper() for char in text)
        if (lower and upper) or any(mark in text for mark in (", ", "? ", "! ", ". ")):
            return True
    return False


def in_style(reference: str, hypothesis: str) -> str:
    """The words of `reference`, written as `hypothesis` writes them.

    Words are aligned by jiwer. A word that both have, by Whisper's English normaliser ("MISTER" and "Mr."), stands as
    the hypothesis has it, with the marks around it. A word that the hypothesis has otherwise is in lower case with the
    marks of the one in its place, and with a capital where a sentence begins; what the hypothesis adds is left out, but
    for a mark that ends a sentence. If more than half of the words differ, the reference is one plain sentence.

    Args:
        reference: what was said, in any format.
        hypothesis: what the model wrote for the same speech.

    Returns:
        As many words as the reference has, separated by single blanks.
    """
    said, written = reference.split(), _split(hypothesis)
    if not said:
        return ""
    if not written:
        return _as_sentence(said)
    found = jiwer.process_words(" ".join(map(_key, said)), " ".join(map(_key, written)))
    if found.substitutions + found.deletions + found.insertions > _MOST_WRONG * len(said):
        return _as_sentence(said)
    words: list[str] = []
    for chunk in found.alignments[0]:
        heard = written[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type == "equal":
            words += heard
        elif chunk.type == "insert":
            _end_sentence(words, heard)
        else:
            for place, word in enumerate(said[chunk.ref_start_idx : chunk.ref_end_idx]):
                begins = not words or words[-1].rstrip("\"'”’)").endswith(_SENTENCE_ENDS)
                plain = _plain(word, begins=begins)
                words.append(_marked(plain, heard[place]) if place < len(heard) else plain)
    return " ".join(words)


def _split(text: str) -> list[str]:
    """Words with their marks; a hyphen or dash parts two words, for references write none.

    Without brackets: normalisers take words in them for remarks, and drop them.
    """
    parted = re.sub(r"(?<=\w)[-–—]+(?=\w)", " ", re.sub(r"[][(){}<>]", " ", text))
    return [word for word in parted.split() if _WORD.search(word)]


@cache
def _key(word: str) -> str:
    """What tells whether two words are the same: one word without blanks, never empty."""
    return normalize(word).replace(" ", "_") or word.lower()


def _plain(word: str, *, begins: bool) -> str:
    lower = word.lower()
    if begins or lower == "i" or lower.startswith("i'"):
        return lower[:1].upper() + lower[1:]
    return lower


def _marked(word: str, model: str) -> str:
    """`word` with the marks around `model`, but for those of an abbreviation."""
    found = _WORD.search(model)
    if not found:
        return word
    return model[: found.start()] + word + model[found.end() :]


def _end_sentence(words: list[str], added: list[str]) -> None:
    mark = added[-1][-1:]
    if words and mark in _SENTENCE_ENDS and words[-1][-1:].isalnum():
        words[-1] += mark


def _as_sentence(said: list[str]) -> str:
    return " ".join(_plain(word, begins=not place) for place, word in enumerate(said)) + "."
