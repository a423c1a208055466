"""Greedy and beam search over a Whisper decoder's steps, with the words of transformers' `generate`.

Source: transformers 5.24, `GenerationMixin._sample` and `_beam_search`, with its early stopping.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pqm_plugin.biasing import Rows, WordTrie

_NEVER = np.float32(-1e9)
Stops = Callable[[np.ndarray], np.ndarray]
"""Whether each of rows of tokens (R, L) is to stop, bool (R,)."""


@dataclass(frozen=True)
class Limits:
    """What a search may write: `ends` finish a hypothesis, `banned` and `banned_first` are never written.

    `n_most`: tokens with the prompt; `no_repeat`: no so many tokens stand twice, 0 for no such rule.
    """

    prompt: tuple[int, ...]
    ends: tuple[int, ...]
    pad: int
    n_most: int
    n_tokens: int
    banned: tuple[int, ...] = ()
    banned_first: tuple[int, ...] = ()
    no_repeat: int = 0
    stops: Sequence[Stops] = field(default=())

    def mask(self, *, first: bool) -> np.ndarray:
        """Added to log probabilities, float32 (1, V)."""
        found = np.zeros((1, self.n_tokens), np.float32)
        for token in (*self.banned, *(self.banned_first if first else ())):
            if 0 <= token < self.n_tokens:
                found[:, token] = -np.inf
        return found

    def hits(self, rows: np.ndarray) -> np.ndarray:
        """Which rows of tokens (R, L) are finished, bool (R,)."""
        found = np.isin(rows[:, -1], self.ends) | (rows.shape[1] >= self.n_most)
        for stops in self.stops:
            found = found | stops(rows)
        return found


@dataclass(frozen=True)
class Found:
    """The best of a piece: tokens with the prompt, int64 (L,), and the sum of log probabilities of what follows it."""

    tokens: np.ndarray
    score: float


Step = Callable[[np.ndarray, np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""Of new tokens (R, T), rows to go on from (R,), mask (1 or R, V) and k: log probabilities and tokens, (R, k)."""


class _Expected:
    """What the words of one's own of each piece add to the mask of a search, and to its scores; nothing without any."""

    def __init__(self, tries: Sequence[WordTrie | None], limits: Limits) -> None:
        self._tries, self._limits = tries, limits
        self._rows = Rows(tries, limits.n_tokens) if tries else None

    def added_to(self, mask: np.ndarray) -> np.ndarray:
        """The mask of every hypothesis, float32 (R, V)."""
        if self._rows is None:
            return mask
        gains: np.ndarray = self._rows.gains()
        return gains.reshape(-1, gains.shape[2]) + mask

    def select(self, parents: np.ndarray, tokens: np.ndarray) -> None:
        """Go on as `Rows.select` does."""
        if self._rows is not None:
            self._rows.select(parents, tokens)

    def without(self, piece: int, found: Found) -> Found:
        """With the model's own score."""
        trie = self._tries[piece] if self._tries else None
        if trie is None:
            return found
        written = found.tokens[len(self._limits.prompt) :].tolist()
        ends = (place for place, token in enumerate(written, start=1) if token in self._limits.ends)
        return Found(found.tokens, found.score - trie.total(written[: next(ends, None)]))


def greedy(step: Step, n_pieces: int, limits: Limits, tries: Sequence[WordTrie | None] = ()) -> list[Found]:
    """The likeliest token after token; `tries` has the words that each piece is expected to have."""
    rows = np.tile(np.array(limits.prompt, np.int64), (n_pieces, 1))
    done, scores = np.zeros(n_pieces, bool), np.zeros(n_pieces, np.float64)
    order, fresh = np.arange(n_pieces), rows
    expected = _Expected(tries, limits)
    while not done.all():
        first = rows.shape[1] == len(limits.prompt)
        banned = [repeats(row, limits.no_repeat) for row in rows]
        k = 1 + max(map(len, banned))
        top, tokens = step(fresh, order, expected.added_to(limits.mask(first=first)), k)
        picked = [next(place for place in range(k) if tokens[row][place] not in banned[row]) for row in range(n_pieces)]
        chosen = np.where(done, limits.pad, tokens[order, picked])
        scores += np.where(done, 0, top[order, picked])
        fresh = chosen[:, None].astype(np.int64)
        expected.select(np.zeros_like(fresh), fresh)
        rows = np.concatenate([rows, fresh], 1)
        done |= limits.hits(rows)
    found = (Found(row, float(score)) for row, score in zip(rows, scores, strict=True))
    return [expected.without(piece, each) for piece, each in enumerate(found)]


def repeats(tokens: np.ndarray, n: int) -> set[int]:
    """Tokens that would make the last `n` of a row (L,) stand in it twice; none where `n` is 0."""
    if not n or len(tokens) < n:
        return set()
    last = tokens[len(tokens) - n + 1 :]
    heads = np.lib.stride_tricks.sliding_window_view(tokens[:-1], n - 1) if n > 1 else np.zeros((len(tokens), 0))
    same = np.flatnonzero((heads == last).all(1))
    return {int(tokens[place + n - 1]) for place in same}


class _Beams:
    """K running and K finished hypotheses of each of B pieces."""

    def __init__(self, n_pieces: int, size: int, limits: Limits) -> None:
        prompt = np.array(limits.prompt, np.int64)
        self.running = np.tile(prompt, (n_pieces, size, 1))
        self.running_scores = np.zeros((n_pieces, size), np.float32)
        self.running_scores[:, 1:] = _NEVER
        self.finished: list[list[np.ndarray]] = [[prompt] * size for _ in range(n_pieces)]
        self.finished_sums = np.zeros((n_pieces, size), np.float32)
        self.finished_scores = np.full((n_pieces, size), _NEVER, np.float32)
        self.is_finished = np.zeros((n_pieces, size), bool)
        self.may_improve = np.ones((n_pieces, 1), bool)
        self._limits, self._size = limits, size

    def advance(self, top: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, bool]:
        """Take the likeliest tokens (B * K, k) of every running hypothesis.

        Returns:
            For each new one the row that it goes on from, and whether there is anything left to do.
        """
        n_pieces, size, length = self.running.shape
        n_kept, n_prompt = top.shape[1], len(self._limits.prompt)
        sums = (top.reshape(n_pieces, size, n_kept) + self.running_scores[:, :, None]).reshape(n_pieces, -1)
        best = _top(sums, n_kept)
        sums = np.take_along_axis(sums, best, 1)
        beams = best // n_kept
        new = np.take_along_axis(tokens.reshape(n_pieces, -1), best, 1)
        sequences = np.concatenate([np.take_along_axis(self.running, beams[:, :, None], 1), new[:, :, None]], 2)
        hits = self._limits.hits(sequences.reshape(-1, length + 1)).reshape(n_pieces, n_kept)
        self._finish(sequences, sums, hits, length + 1 - n_prompt)
        open_sums = sums + hits.astype(np.float32) * _NEVER
        going = _top(open_sums, size)
        self.running = np.take_along_axis(sequences, going[:, :, None], 1)
        self.running_scores = np.take_along_axis(open_sums, going, 1)
        rows = np.take_along_axis(beams, going, 1) + size * np.arange(n_pieces)[:, None]
        possible = self.running_scores[:, :1] / np.float32(length + 1 - n_prompt)
        worst = np.where(self.is_finished, self.finished_scores.min(1, keepdims=True), _NEVER)
        self.may_improve &= (possible > worst).any(1, keepdims=True)
        return rows.reshape(-1), bool(self.may_improve.any() and not hits.all())

    def _finish(self, sequences: np.ndarray, sums: np.ndarray, hits: np.ndarray, n_written: int) -> None:
        """Keep the best K of the finished ones and of those that finish now among the K likeliest."""
        size = self._size
        just = hits & (np.arange(hits.shape[1]) < size)
        scores = sums / np.float32(n_written) + (~self.may_improve) * _NEVER + (~just) * _NEVER
        merged = np.concatenate([self.finished_scores, scores], 1)
        best = _top(merged, size)
        self.finished_scores = np.take_along_axis(merged, best, 1)
        self.finished_sums = np.take_along_axis(np.concatenate([self.finished_sums, sums], 1), best, 1)
        self.is_finished = np.take_along_axis(np.concatenate([self.is_finished, just], 1), best, 1)
        for piece, places in enumerate(best):
            held = self.finished[piece]
            self.finished[piece] = [held[at] if at < size else sequences[piece, at - size] for at in places]


def _top(values: np.ndarray, k: int) -> np.ndarray:
    """Places of the `k` largest in each row, in falling order; of equal ones the first."""
    return np.argsort(-values, axis=1, kind="stable")[:, :k]


def beam(step: Step, n_pieces: int, size: int, limits: Limits, tries: Sequence[WordTrie | None] = ()) -> list[Found]:
    """The best of `size` hypotheses of each piece by mean log probability of a token; `tries` as for `greedy`."""
    n_kept = max(2, 1 + len(limits.ends)) * size
    beams, expected = _Beams(n_pieces, size, limits), _Expected(tries, limits)
    # All hypotheses of a piece begin alike: the prompt is computed for one of each.
    prompt = np.tile(np.array(limits.prompt, np.int64), (n_pieces, 1))
    top, tokens = step(prompt, np.arange(n_pieces), expected.added_to(limits.mask(first=True)), n_kept)
    top, tokens = np.repeat(top, size, 0), np.repeat(tokens, size, 0)
    order, goes_on = beams.advance(top, tokens)
    order //= size
    expected.select(np.zeros((n_pieces, size), np.int64), beams.running[:, :, -1])
    mask = limits.mask(first=False)
    while goes_on:
        top, tokens = step(beams.running[:, :, -1].reshape(-1, 1), order, expected.added_to(mask), n_kept)
        order, goes_on = beams.advance(top, tokens)
        expected.select(order.reshape(n_pieces, size) % size, beams.running[:, :, -1])
    found = (Found(rows[0], float(sums[0])) for rows, sums in zip(beams.finished, beams.finished_sums, strict=True))
    return [expected.without(piece, each) for piece, each in enumerate(found)]
