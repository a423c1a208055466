"""A search that expects words of one's own: what each next token gains or gives back, for one hypothesis or many.

Shallow fusion with back-off (Zhao et al. 2019, "Shallow-fusion end-to-end contextual biasing"; He et al. 2019): a token
inside of a listed word is given a bonus, which is taken back where the word is not finished. Words stand in a prefix
trie over bytes, through which tokens of any length walk: every way in which a tokeniser may cut a word is in it. Where
a hypothesis leaves a word, it goes on with the longest end of what it said that begins another (Aho and Corasick 1975).

Numpy alone: searches in torch and in ONNX Runtime share it.
"""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import chain

import numpy as np

from pqm_plugin.errors import PqmError
from pqm_plugin.words import WordList, spellable

_ROOT, _START = 0, 1
_SPACE = 0x20
_APOSTROPHE = 0x27
# Bytes that end a word as a blank does; an apostrophe may go on with it or end it.
_BREAKS = bytes(byte for byte in range(128) if not chr(byte).isalnum() and byte != _APOSTROPHE)
_AS_SPACE = bytes(_SPACE if byte in _BREAKS else byte for byte in range(256))
_TYPOGRAPHIC = tuple(
    (char.encode(), b"'" if char in "’‘" else b" ") for char in ("’", "‘", "“", "”", "„", "«", "»", "–", "—", "…")
)
# Scripts that set no blanks between words.
_UNSPACED = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x2E80, 0xA4CF), (0xAC00, 0xD7AF), (0xF900, 0xFAFF))
_UNSPACED_WITH_BLANKS = ((0xAC00, 0xD7AF),)
_MOST_ROWS = 48
_MOST_KEPT = 16


@dataclass(frozen=True)
class Bonus:
    """How much a word is worth, in nats: `word` for it as a whole and `letter` for each of its characters.

    It grows along the word; `early` in (0, 1] is the power of that growth: 1 is even, more gives more to its end.
    """

    word: float = 0.0
    letter: float = 1.0
    late: float = 1.0

    def at(self, done: float, n_letters: int) -> float:
        """Bonus where the share `done` in [0, 1] of a word is said."""
        return (self.word + self.letter * n_letters) * done**self.late


ESPNET_BONUS = Bonus(letter=0.5)
"""For ESPnet's joint search, chosen likewise."""

EXPECTED = 5
"""Tokens that a joint search scores for words of one's own beside its pre-beam, a hypothesis."""

WHISPER_BONUS = Bonus(letter=0.5)
"""For Whisper, chosen on dev utterances, see docs/words.md."""


@cache
def byte_symbols() -> dict[str, int]:
    """The byte that each symbol of a byte-level vocabulary stands for.

    Source: GPT-2, `encoder.bytes_to_unicode`: bytes that print stand for themselves, the others for what follows 255.
    """
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(256 + place): byte for place, byte in enumerate(others)}


class Spelling:
    """The bytes that each token of a vocabulary writes, a blank before a word among them."""

    def __init__(self, tokens: Sequence[bytes | None], symbols: frozenset[str] | None = None) -> None:
        """Take UTF-8 of every token in the order of their numbers; None for what writes nothing and ends a word.

        Args:
            symbols: every character that the tokens can spell; None where they can spell any text.
        """
        self.symbols = symbols
        self.tokens = [None if token is None else _normal(token) for token in tokens]
        self.silent = np.array([token is None for token in self.tokens])

    @classmethod
    def of_byte_level(cls, spelled: Mapping[int, str], n_tokens: int) -> "Spelling":
        """Of a byte-level vocabulary, as GPT-2 and Whisper have: the symbols of each token that writes something."""
        symbols = byte_symbols()
        written: list[bytes | None] = [None] * n_tokens
        for token, text in spelled.items():
            if 0 <= token < n_tokens:
                written[token] = bytes(symbols[symbol] for symbol in text if symbol in symbols)
        return cls(written)

    @classmethod
    def of_pieces(cls, pieces: Sequence[str], silent: Collection[int], symbols: frozenset[str]) -> "Spelling":
        """Of a list of SentencePiece's pieces or of characters, in which `▁` or `<space>` stands for a blank.

        Args:
            silent: tokens that write nothing.
            symbols: every character that the pieces can spell.
        """
        blanks = {"<space>": " "}
        texts = [blanks.get(piece, piece.replace("▁", " ")) for piece in pieces]
        return cls([None if place in silent else text.encode() for place, text in enumerate(texts)], symbols)

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def in_order(self) -> tuple[list[bytes], list[int]]:
        """All bytes in ascending order, and the token of each."""
        pairs = sorted((token, number) for number, token in enumerate(self.tokens) if token)
        return [token for token, _ in pairs], [number for _, number in pairs]

    @cached_property
    def breaking(self) -> np.ndarray:
        """Which tokens begin with the end of a word, bool (V,)."""
        return np.array([token is None or token[:1] in (b" ", b"'") for token in self.tokens])

    @cached_property
    def breaking_inside(self) -> tuple[list[bytes], list[int]]:
        """As `in_order`, of tokens with the end of a word after their first letter."""
        chosen = [
            (token, number)
            for token, number in zip(*self.in_order, strict=True)
            if any(byte in b" '" for byte in token.lstrip()[1:])
        ]
        return [token for token, _ in chosen], [number for _, number in chosen]


def _normal(token: bytes) -> bytes:
    for typographic, plain in _TYPOGRAPHIC:
        token = token.replace(typographic, plain)
    return token.translate(_AS_SPACE)


class WordTrie:
    """The words of a list for one vocabulary.

    A state is a number: what of a word the end of a hypothesis has said. `start` is the state of an empty one.
    """

    start = _START

    def __init__(self, words: WordList, spelling: Spelling, bonus: Bonus, scale: float = 1.0) -> None:
        """Build it.

        Args:
            scale: times every bonus.

        Raises:
            PqmError: if the vocabulary cannot spell a word.
        """
        self._spelling = spelling
        self._edges: dict[int, int] = {}
        # Of each node: bonus so far; 1 where a word ends if the next byte ends one, 2 where it ends at once.
        self._value, self._ends = [0.0], [0]
        self._last = [-1]
        assert self._child(_ROOT, _SPACE) == _START
        for word, weight in words.entries:
            written = spellable(word, spelling.symbols)
            if not written:
                raise PqmError(
                    f"the model cannot write {word[:40]!r}: spell it in the model's letters, or leave it out"
                )
            for form in written:
                self._add(form, weight * scale, bonus)
        self._link()
        self._rows: OrderedDict[int, np.ndarray] = OrderedDict()

    def _child(self, node: int, byte: int) -> int:
        key = node << 8 | byte
        if key not in self._edges:
            self._edges[key] = len(self._value)
            self._value.append(0.0)
            self._ends.append(0)
            self._last.append(byte)
        return self._edges[key]

    def _add(self, form: str, weight: float, bonus: Bonus) -> None:
        own = b" ".join(_normal(form.encode()).split())
        node = _ROOT if _is_unspaced(form[0]) else _START
        for place, byte in enumerate(own, start=1):
            node = self._child(node, byte)
            self._value[node] = max(self._value[node], weight * bonus.at(place / len(own), len(form)))
        self._ends[node] = max(self._ends[node], 2 if _is_unspaced(form[-1]) else 1)

    def _link(self) -> None:
        """Find of each node where a hypothesis goes on that leaves it, and the bonus that is never taken back."""
        n_nodes = len(self._value)
        self._kids: list[bytes] = [b""] * n_nodes
        self._fail, self._kept = [_ROOT] * n_nodes, [0.0] * n_nodes
        for key in self._edges:
            self._kids[key >> 8] += bytes([key & 255])
        todo = [_ROOT]
        for node in todo:
            for byte in self._kids[node]:
                child = self._edges[node << 8 | byte]
                todo.append(child)
                if node != _ROOT:
                    self._fail[child] = self._after(self._fail[node], byte)
                ended = self._ends[node] == 1 and byte in b" '"
                self._kept[child] = self._value[node] if ended else self._kept[node]
                if self._ends[child] == 2:
                    self._kept[child] = self._value[child]

    def _after(self, node: int, byte: int) -> int:
        while (found := self._edge(node, byte)) is None:
            if node == _ROOT:
                return _ROOT
            node = self._fail[node]
        return found

    def _edge(self, node: int, byte: int) -> int | None:
        if byte == _SPACE and self._last[node] == _SPACE:
            # However many blanks and signs stand between words, they are one.
            return node
        return self._edges.get(node << 8 | byte)

    def _open(self, node: int) -> float:
        """Bonus that is taken back if the word is not finished."""
        return self._value[node] - self._kept[node]

    def _step(self, node: int, byte: int) -> tuple[int, float]:
        gained = 0.0
        while (found := self._edge(node, byte)) is None:
            if self._ends[node] == 1 and byte in b" '":
                node = _ROOT
                if (found := self._edge(node, byte)) is not None:
                    return found, gained + self._value[found]
                return _ROOT, gained
            if node == _ROOT:
                return _ROOT, gained
            gained -= self._open(node)
            node = self._fail[node]
            gained += self._value[node]
        return found, gained + self._value[found] - self._value[node]

    def _walk(self, state: int, token: int) -> tuple[int, float]:
        text = self._spelling.tokens[token]
        if text is None:
            return _START, -self._unfinished(state)
        gained = 0.0
        for byte in text:
            state, more = self._step(state, byte)
            gained += more
        return state, gained

    def _unfinished(self, state: int) -> float:
        return 0.0 if self._ends[state] == 1 else self._open(state)

    def after(self, state: int, token: int) -> int:
        """The state after a token."""
        return self._walk(state, token)[0]

    def gains(self, state: int) -> np.ndarray:
        """What each token gains in this state, negative where a bonus is taken back; float32 (V,), read-only."""
        if state in self._rows:
            self._rows.move_to_end(state)
            return self._rows[state]
        row = self._made(state)
        self._rows[state] = row
        while len(self._rows) > _MOST_ROWS:
            self._rows.popitem(last=False)
        return row

    def _made(self, state: int) -> np.ndarray:
        spelling = self._spelling
        fitting = self._fitting(state)
        if state == _ROOT:
            row = np.zeros(len(spelling), np.float32)
            # They may begin a word inside.
            fitting = chain(fitting, spelling.breaking_inside[1])
        else:
            fail = self._fail[state]
            row = self.gains(fail) + np.float32(self._value[fail] - self._open(state))
            if self._ends[state] == 1:
                row = np.where(spelling.breaking, self.gains(_ROOT), row)
        row[spelling.silent] = -self._unfinished(state)
        for token in fitting:
            row[token] = self._walk(state, token)[1]
        row.flags.writeable = False
        return row

    def _fitting(self, state: int) -> Iterable[int]:
        """Tokens that go on with what the state has begun, to their last byte or to the end of a word."""
        texts, numbers = self._spelling.in_order
        inside, inside_numbers = self._spelling.breaking_inside
        todo = [(state, b"", 0, len(texts))]
        while todo:
            node, said, low, high = todo.pop()
            if said:
                while low < high and texts[low] == said:
                    yield numbers[low]
                    low += 1
                if self._ends[node]:
                    first, last = _range(inside, said, 0, len(inside))
                    yield from inside_numbers[first:last]
            kids = self._kids[node] + (b" " if self._last[node] == _SPACE else b"")
            for byte in dict.fromkeys(kids):
                longer = said + bytes([byte])
                first, last = _range(texts, longer, low, high)
                if first < last:
                    child = self._edge(node, byte)
                    assert child is not None
                    todo.append((child, longer, first, last))

    def total(self, tokens: Iterable[int]) -> float:
        """What all tokens of a hypothesis gain together, from its start on."""
        state, found = self.start, 0.0
        for token in tokens:
            state, gained = self._walk(state, token)
            found += gained
        return found

    def finished(self, tokens: Iterable[int]) -> float:
        """The same of a text that ends here."""
        tokens = list(tokens)
        state = self.start
        for token in tokens:
            state = self.after(state, token)
        return self.total(tokens) - self._unfinished(state)


def _range(texts: Sequence[bytes], prefix: bytes, low: int, high: int) -> tuple[int, int]:
    """Where texts in ascending order begin with a prefix."""
    first = bisect_left(texts, prefix, low, high)
    # No byte of UTF-8 is 0xFF.
    return first, bisect_left(texts, prefix + b"\xff", first, high)


def _is_unspaced(char: str) -> bool:
    code = ord(char)
    return any(low <= code <= high for low, high in _UNSPACED) and not any(
        low <= code <= high for low, high in _UNSPACED_WITH_BLANKS
    )


class Tries:
    """The tries of the lists that were used last, for one vocabulary."""

    def __init__(self, spelling: Callable[[], Spelling], bonus: Bonus, scale: float = 1.0) -> None:
        """Take how the vocabulary is found when words come, what they are worth, and a factor of that."""
        self._spelled, self._bonus, self._scale = spelling, bonus, scale
        self._kept: OrderedDict[str, WordTrie] = OrderedDict()

    def of(self, words: Sequence[WordList | None]) -> list[WordTrie | None]:
        """The trie of each list, None for none; an empty list where there are no words at all.

        Raises:
            PqmError: if a word cannot be spelled.
        """
        if not any(words):
            return []
        return [None if one is None else self._of(one) for one in words]

    @cached_property
    def _spelling(self) -> Spelling:
        return self._spelled()

    def _of(self, words: WordList) -> WordTrie:
        if words.digest not in self._kept:
            self._kept[words.digest] = WordTrie(words, self._spelling, self._bonus, self._scale)
        self._kept.move_to_end(words.digest)
        while len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)
        return self._kept[words.digest]


def of_those(tries: Sequence[WordTrie | None], chosen: Sequence[bool]) -> Sequence[WordTrie | None]:
    """The tries of the chosen rows, None for others; all where nothing is chosen, and nothing where none is left."""
    kept = [trie if take else None for trie, take in zip(tries, chosen, strict=True)] if tries and chosen else tries
    return kept if any(trie is not None for trie in kept) else ()


class Rows:
    """States of the hypotheses of a search: of each of B pieces H of them, with the list of the piece or none."""

    def __init__(self, tries: Sequence[WordTrie | None], n_tokens: int) -> None:
        """Begin with one empty hypothesis of each piece."""
        self._tries = list(tries)
        self._states = [[0 if trie is None else trie.start] for trie in self._tries]
        self._nothing = np.zeros(n_tokens, np.float32)

    def gains(self) -> np.ndarray:
        """What each token gains, float32 (B, H, V)."""
        return np.stack(
            [
                np.stack([self._nothing if trie is None else trie.gains(state) for state in states])
                for trie, states in zip(self._tries, self._states, strict=True)
            ]
        )

    def select(self, parents: np.ndarray, tokens: np.ndarray) -> None:
        """Go on with hypotheses that extend those at `parents` by `tokens`, integers (B, H) each."""
        self._states = [
            [0 if trie is None else trie.after(states[parent], token) for parent, token in zip(*new, strict=True)]
            for trie, states, new in zip(
                self._tries, self._states, zip(parents.tolist(), tokens.tolist(), strict=True), strict=True
            )
        ]

    def keep(self, pieces: Sequence[int]) -> None:
        """Go on with these pieces alone."""
        self._tries = [self._tries[piece] for piece in pieces]
        self._states = [self._states[piece] for piece in pieces]

    def have_words(self) -> np.ndarray:
        """Which pieces expect words, bool (B,)."""
        return np.array([trie is not None for trie in self._tries])
