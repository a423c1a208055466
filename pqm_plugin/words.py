"""Lists of words of one's own: names and terms that a recogniser is to expect, one a line."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pqm_plugin.errors import PqmError
from pqm_plugin.files import decode_text

MOST_WORDS = 10_000
"""Longest list: each word costs memory, and with every word a wrong one becomes likelier."""
MOST_CHARACTERS = 100
"""Longest word or phrase."""
HEAVIEST = 10.0
"""Greatest weight of a word."""
_MOST_BYTES = 4 * 2**20
_SHOWN = 40
_NO_TEXT = ("Cc", "Cn", "Co", "Cs")
_APOSTROPHES = str.maketrans(dict.fromkeys("’‘ʼ＇`´", "'"))


@dataclass(frozen=True)
class WordList:
    """Words or phrases and the weight of each, above 0; 1 is the usual one.

    Words are in Unicode's composed form (NFC), with single blanks inside, none stands twice.
    """

    entries: tuple[tuple[str, float], ...]

    @cached_property
    def digest(self) -> str:
        """Hash (64 hexadecimal digits) of words and weights, whatever their order."""
        return hashlib.sha256(self.text(in_order=True).encode()).hexdigest()

    def text(self, *, in_order: bool = False) -> str:
        """The list as a file has it, a weight only where it is not 1; `in_order` sorts it."""
        rows = sorted(self.entries) if in_order else self.entries
        return "".join(f"{word}\n" if weight == 1 else f"{word}\t{weight:g}\n" for word, weight in rows)

    def __add__(self, other: "WordList") -> "WordList":
        """Both lists; of a word that is in both the weight of `other`.

        Raises:
            PqmError: if together they are too long.
        """
        both = tuple((dict(self.entries) | dict(other.entries)).items())
        _check_length(len(both), "both lists together")
        return WordList(both)


def parse_words(lines: Iterable[str], where: str) -> WordList:
    """A list from lines of a word or phrase and, after a tab, its weight; empty lines and `#` lines are left out.

    Args:
        where: what to call the lines in messages, such as a file's name.

    Raises:
        PqmError: if there is no word, there are too many, or a line is no word and weight, naming the line.
    """
    found: dict[str, float] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.startswith("#"):
            word, weight = _entry(line, f"{where}:{number}")
            found[word] = weight
            _check_length(len(found), where)
    if not found:
        raise PqmError(f"{where} has no words: write one a line, or leave it out")
    return WordList(tuple(found.items()))


def read_words(path: Path) -> WordList:
    """The list in a UTF-8 file, see `parse_words`.

    Raises:
        PqmError: if the file is missing, cannot be read, is too large, or is no such list.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise PqmError(
                f"{path} has more than {_MOST_BYTES // 2**20} MiB: a list has {MOST_WORDS} words at most: "
                "keep those that are said"
            )
        text = decode_text(path.read_bytes(), path)
    except FileNotFoundError:
        raise PqmError(f"{path} is missing: give a list of words, one a line") from None
    except OSError as error:
        raise PqmError(f"{path} cannot be read ({error.strerror}): give a list of words, one a line") from error
    return parse_words(text.removeprefix("\ufeff").splitlines(), str(path))


def words_of(words: "WordList | Path | str | Sequence[str] | None") -> WordList | None:
    """A list from a file, a sequence of lines, or one that is a list already; None stays None.

    Raises:
        PqmError: as `read_words` and `parse_words` do.
    """
    if words is None or isinstance(words, WordList):
        return words
    if isinstance(words, str | Path):
        return read_words(Path(words))
    return parse_words(words, "the list of words")


def forms(word: str) -> tuple[str, ...]:
    """The ways in which a model may write a word: as it is, with a capital, or without if it has no case of its own.

    What is written in one case throughout has none: `ibm` and `IBM` may be either, `iPhone` is what it is.
    """
    spelled = [word, word.lower()] if word == word.upper() else [word]
    return tuple(dict.fromkeys(form for one in spelled for form in (one, _capital(one), _capitals(one))))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _capitals(text: str) -> str:
    return " ".join(map(_capital, text.split(" ")))


def spellable(word: str, symbols: frozenset[str] | None) -> tuple[str, ...]:
    """Those `forms` of a word that a model can write, else the word in the one case that it has; none if it cannot.

    Args:
        symbols: every character that its tokens can spell; None where they can spell any text.
    """
    if symbols is None:
        return forms(word)
    # Where a model has no signs, what they part are words.
    plain = " ".join(re.sub(r"[^\w']+", " ", word).split())
    tried = [form for one in (word, plain) for form in (forms(one), (one.lower(), one.upper()))]
    known = symbols | {" "}
    return next((kept for some in tried if (kept := tuple(form for form in some if known.issuperset(form)))), ())


def check_spellable(words: WordList, symbols: frozenset[str] | None, where: str) -> None:
    """Refuse a list with a word that a model cannot write.

    Raises:
        PqmError: naming the first such word and what of it is not known.
    """
    for word, _ in words.entries:
        if not spellable(word, symbols):
            known = (symbols or frozenset()) | {" "}
            strange = next((char for char in word if not {char.lower(), char.upper()} & known), word)
            raise PqmError(
                f"{where}: the model cannot write {strange!r} of {word[:_SHOWN]!r}: spell the word in its letters, "
                "as it is said, or leave it out"
            )


def _entry(line: str, where: str) -> tuple[str, float]:
    text, tab, given = line.partition("\t")
    word = " ".join(unicodedata.normalize("NFC", text).translate(_APOSTROPHES).split())
    if not any(char.isalnum() for char in word):
        raise PqmError(
            f"{where}: {line.strip()[:_SHOWN]!r} has no letter or digit: write a word, then a weight after a tab"
        )
    if any(unicodedata.category(char) in _NO_TEXT for char in word):
        raise PqmError(f"{where}: {word[:_SHOWN]!r} has a character that no text has: write the word anew")
    if len(word) > MOST_CHARACTERS:
        raise PqmError(f"{where}: {word[:_SHOWN]!r}… has more than {MOST_CHARACTERS} characters: write a word a line")
    if not tab or not given.strip():
        return word, 1.0
    try:
        weight = float(given)
    except ValueError:
        weight = 0.0
    if not 0 < weight <= HEAVIEST:
        raise PqmError(
            f"{where}: {given.strip()[:_SHOWN]!r} is no weight: use a number above 0 and up to {HEAVIEST:g}, 1 is usual"
        )
    return word, weight


def _check_length(n_words: int, where: str) -> None:
    if n_words > MOST_WORDS:
        raise PqmError(f"{where} has more than {MOST_WORDS} words, which is the most: keep those that are said")
