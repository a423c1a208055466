"""Fit transcripts to a model's symbols: letter case, typographic variants, characters without a symbol."""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from pqm_plugin.errors import PqmError

AS_IS = "as is"
# In this order a tie between cases is settled.
CASES = (AS_IS, "lower", "upper")
AUTO = "auto"
_VARIANTS = {
    **dict.fromkeys("’‘‛ʼʹ´`′＇", "'"),
    **dict.fromkeys("“”„‟«»″", '"'),
    **dict.fromkeys("–—―‒‐‑−", "-"),
    **{"…": "...", "ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"},
}


@dataclass(frozen=True)
class TextFit:
    """How texts are fitted to `symbols` (None: any can be written), and what that did to the texts it was made for.

    `replaced` maps each character that had to go to what took its place; `unspellable` counts letters and digits that
    stay although no symbol spells them.
    """

    case: str
    symbols: frozenset[str] | None
    replaced: dict[str, str] = field(default_factory=dict)
    unspellable: dict[str, int] = field(default_factory=dict)
    n_characters: int = 0

    def apply(self, text: str) -> str:
        """Return `text` in the model's case and symbols, with single blanks between words."""
        return " ".join("".join(self._spell(char) for char in _in_case(text, self.case)).split())

    def report(self) -> str:
        """Return a few lines for people: the case, what was replaced, and what the model cannot spell."""
        lines = [f"text: case {'kept' if self.case == AS_IS else 'made ' + self.case} to match what the model writes"]
        if self.replaced:
            pairs = ", ".join(f"{_shown(old)} by {_shown(new)}" for old, new in self.replaced.items())
            lines.append(f"text: replaced what the model cannot spell: {pairs}")
        if self.unspellable:
            counts = ", ".join(f"{_shown(char)} {count} times" for char, count in self.unspellable.items())
            share = sum(self.unspellable.values()) / max(1, self.n_characters)
            lines.append(
                f"text: the model cannot spell {counts} ({share:.2%} of all characters), each counts as an error: "
                "write digits as words, or choose a base for this alphabet"
            )
        return "\n".join(lines)

    def _spell(self, char: str) -> str:
        if self.symbols is None:
            return char
        if char not in self._spelled:
            self._spelled[char] = _spelling(char, self.case, self.symbols)
        return self._spelled[char]

    @cached_property
    def _spelled(self) -> dict[str, str]:
        return {}


def fit_text(texts: Iterable[str], symbols: Iterable[str] | None, case: str = AUTO) -> TextFit:
    """Fit `texts` to what a model can spell, and count what it cannot.

    Args:
        symbols: characters that the model can spell, the blank between words always among them; None: any.
        case: one of `CASES`, or `auto`: that in which the fewest letters and digits stay unspellable; for a model that
            can spell any text, lower case where the texts have no lower-case letter: nobody writes in capitals alone.

    Raises:
        PqmError: if there are no symbols.
    """
    counts = Counter(char for text in texts for char in text + " ")
    cases = CASES if case == AUTO else (case,)
    if symbols is None:
        capitals_alone = not any(char.islower() for char in counts) and any(char.isupper() for char in counts)
        chosen = ("lower" if capitals_alone else AS_IS) if case == AUTO else case
        return TextFit(chosen, None, n_characters=counts.total() - counts[" "])
    known = frozenset(char for symbol in symbols for char in unicodedata.normalize("NFC", symbol)) | {" "}
    if known == {" "}:
        raise PqmError("the base has no symbols to spell with: check its tokens.txt")
    # Whole texts are not needed to choose: what a character becomes does not depend on its neighbours.
    fits = [_fit_case(counts, case, known) for case in cases]
    return min(fits, key=lambda fit: sum(fit.unspellable.values()))


def _fit_case(counts: Counter[str], case: str, symbols: frozenset[str]) -> TextFit:
    replaced: dict[str, str] = {}
    unspellable: Counter[str] = Counter()
    for original in sorted(counts):
        for char in _in_case(original, case):
            spelling = _spelling(char, case, symbols)
            if spelling != char and not char.isspace():
                replaced[char] = spelling
            elif spelling == char and not char.isspace() and char not in symbols:
                unspellable[char] += counts[original]
    ranked = dict(sorted(unspellable.items(), key=lambda item: (-item[1], item[0])))
    return TextFit(case, symbols, replaced, ranked, counts.total() - counts[" "])


def _in_case(text: str, case: str) -> str:
    composed = unicodedata.normalize("NFC", text)
    return {AS_IS: composed, "lower": composed.lower(), "upper": composed.upper()}[case]


def _spelling(char: str, case: str, symbols: frozenset[str]) -> str:
    """Return what stands for `char`: itself, a variant that can be spelled, a blank, nothing, or itself unspellable."""
    if char in symbols:
        return char
    variant = _VARIANTS.get(char) or _VARIANTS.get(char.lower(), "").upper()
    base = "".join(part for part in unicodedata.normalize("NFKD", char) if not unicodedata.combining(part))
    for candidate in (variant, _in_case(base, case)):
        if candidate and symbols.issuperset(candidate):
            return candidate
    category = unicodedata.category(char)
    if category == "Cf":  # soft hyphens and zero-width signs stand within words
        return ""
    return char if category[0] in "LNM" else " "


def _shown(text: str) -> str:
    return {"": "nothing", " ": "a blank"}.get(text, f"{text!r}")
