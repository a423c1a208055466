"""Joint CTC/attention beam search over several pieces in numpy, with the words of `models/espnet/search.py`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from pqm_plugin.biasing import EXPECTED, Rows, WordTrie

_END_GAP = -10.0
_END_LENGTHS = 3
_LOG_ZERO = -1e10
_WINDOW_LABELS = 5


@dataclass(frozen=True)
class BeamOptions:
    """How is searched; as `models/espnet/search.py:BeamOptions`.

    Weights of 0 leave a scorer out. `pre_beam_size` is the number of tokens a hypothesis that the CTC layer scores, 0
    for all; `window_margin` in encoder frames, 0 for none; `blank`, `start` and `end` are token numbers.
    """

    beam_size: int
    pre_beam_size: int
    decoder_weight: float
    ctc_weight: float
    length_weight: float
    max_length_ratio: float
    window_margin: int
    n_tokens: int
    blank: int
    start: int
    end: int


@dataclass(frozen=True)
class Found:
    """The best hypothesis: its tokens without start and end, and its score in nats."""

    tokens: list[int]
    score: float


class Decoder(Protocol):
    """Steps of an attention decoder over B pieces of H hypotheses each."""

    def step(self, tokens: np.ndarray, order: np.ndarray) -> np.ndarray:
        """Log probabilities (B, H, V) after tokens (B, H), which go on from the hypotheses `order` (B, H) of before."""

    def keep(self, pieces: np.ndarray) -> None:
        """Go on with these pieces alone, int64 (n,)."""


@dataclass
class _Ended:
    """Hypotheses of one piece that have ended: the best of all, and the best score by length."""

    best: Found | None = None
    by_length: dict[int, float] = field(default_factory=dict)

    def add(self, tokens: list[int], score: float) -> None:
        """Note a hypothesis; `tokens` without start and end."""
        if self.best is None or score > self.best.score:
            self.best = Found(tokens, score)
        length = len(tokens)
        self.by_length[length] = max(score, self.by_length.get(length, score))

    def detected(self, step: int) -> bool:
        """Whether those that ended of late are all hopeless (Watanabe et al. 2017, equation 50)."""
        lengths = [step - back - 2 for back in range(_END_LENGTHS)]
        return self.best is not None and all(
            length in self.by_length and self.by_length[length] - self.best.score < _END_GAP for length in lengths
        )


def search(
    frames: Sequence[np.ndarray],
    decoder: Decoder | None,
    options: BeamOptions,
    tries: Sequence[WordTrie | None] = (),
) -> list[Found | None]:
    """The best hypothesis of each piece; None where it has no frame.

    Args:
        frames: log probabilities of the CTC layer, float32 (N, V) each.
        decoder: None where its weight is 0.
        tries: the words that each piece is expected to have, None for none; or nothing at all.
    """
    longest = [_longest(len(rows), options) for rows in frames]
    ended = [_Ended() for _ in frames]
    left = np.array([place for place, rows in enumerate(frames) if len(rows)], np.int64)
    if not len(left):
        return [None] * len(frames)
    running = _Running([frames[place] for place in left], decoder, options, [tries[place] for place in left if tries])
    if decoder is not None and len(left) < len(frames):
        decoder.keep(left)
    step = 0
    while len(left):
        running.advance()
        rows = zip(running.tokens.tolist(), running.scores.tolist(), strict=True)
        active = np.array(
            [
                _end(step, longest[piece], ended[piece], tokens, scores, options)
                for piece, (tokens, scores) in zip(left.tolist(), rows, strict=True)
            ]
        )
        going = np.flatnonzero(active.any(1))
        running.active = active
        if len(going) < len(left):
            # What has ended is no longer computed.
            left = left[going]
            running.keep(going)
        step += 1
    return [found.best for found in ended]


def _longest(n_frames: int, options: BeamOptions) -> int:
    """Most tokens of a hypothesis; 0 where there is nothing to search in."""
    ratio = options.max_length_ratio
    if n_frames == 0:
        return 0
    if ratio < 0:
        return -int(ratio)
    return n_frames if ratio == 0 else max(1, int(ratio * n_frames))


def _end(
    step: int, longest: int, ended: _Ended, tokens: Sequence[list[int]], scores: Sequence[float], options: BeamOptions
) -> list[bool]:
    """Take out what has ended of one piece; which of its hypotheses go on."""
    active = []
    for row, score in zip(tokens, scores, strict=True):
        alive = score != -float("inf")
        if alive and step == longest - 1:
            # ESPnet adds an end even to what has just ended: the first then stays as a token.
            ended.add(row[1:], score)
        elif alive and row[-1] == options.end:
            ended.add(row[1:-1], score)
            alive = False
        active.append(alive and step < longest - 1)
    if options.max_length_ratio == 0 and ended.detected(step):
        return [False] * len(active)
    return active


class _Running:
    """Hypotheses that have not ended: `tokens` int64 (B, H, n) from the start on, `scores` float32 (B, H)."""

    def __init__(
        self,
        frames: Sequence[np.ndarray],
        decoder: Decoder | None,
        options: BeamOptions,
        tries: Sequence[WordTrie | None] = (),
    ) -> None:
        self._options, self._decoder = options, decoder
        self._words = Rows(tries, options.n_tokens) if tries else None
        self._ctc = CtcPrefixScorer(frames, options) if options.ctc_weight else None
        n_pieces = len(frames)
        self.tokens = np.full((n_pieces, 1, 1), options.start, np.int64)
        self.scores = np.zeros((n_pieces, 1), np.float32)
        self.active = np.ones((n_pieces, 1), bool)
        self._order = np.zeros((n_pieces, 1), np.int64)

    def keep(self, pieces: np.ndarray) -> None:
        """Go on with these pieces alone."""
        self.tokens, self.scores, self.active, self._order = (
            values[pieces] for values in (self.tokens, self.scores, self.active, self._order)
        )
        for part in (self._decoder, self._ctc):
            if part is not None:
                part.keep(pieces)
        if self._words is not None:
            self._words.keep(pieces.tolist())

    def advance(self) -> None:
        """Extend every hypothesis by a token and keep the best of each piece; scores of none are -inf."""
        last = self.tokens[..., -1]
        full = self._full(last)
        candidates = self._candidates(full)
        if self._words is not None:
            full = full + self._words.gains()
            candidates = self._with_expected(candidates, full, self._words.have_words())
        scores = full if candidates is None else np.take_along_axis(full, candidates, 2)
        if self._ctc is not None:
            scores = scores + np.float32(self._options.ctc_weight) * self._ctc.score(last, self.active, candidates)
        scores = scores + np.where(self.active, self.scores, np.float32(-np.inf))[..., None]
        if candidates is not None:
            # The end comes last, behind what words of one's own add; the pre-beam may have either, too.
            for place in range(self._options.pre_beam_size, candidates.shape[2]):
                twice = (candidates[..., :place] == candidates[..., place, None]).any(-1)
                scores[..., place][twice] = -np.inf
        n_pieces, n_hypotheses, n = scores.shape
        flat = scores.reshape(n_pieces, -1)
        best = _top(flat, min(self._options.beam_size, n_hypotheses * n))
        self.scores = np.take_along_axis(flat, best, 1)
        parents, places = best // n, best % n
        tokens = places if candidates is None else np.take_along_axis(candidates.reshape(n_pieces, -1), best, 1)
        self._order = parents
        if self._ctc is not None:
            self._ctc.select(parents, places, tokens)
        if self._words is not None:
            self._words.select(parents, tokens)
        kept = np.take_along_axis(self.tokens, parents[..., None], 1)
        self.tokens = np.concatenate([kept, tokens[..., None]], 2)

    def _full(self, last: np.ndarray) -> np.ndarray:
        """Weighted scores of all tokens but for the CTC layer's, float32 (B, H, V)."""
        options = self._options
        if self._decoder is None:
            full = np.zeros((*last.shape, options.n_tokens), np.float32)
        else:
            full = np.float32(options.decoder_weight) * self._decoder.step(last, self._order)
        return full + np.float32(options.length_weight) if options.length_weight else full

    def _candidates(self, full: np.ndarray) -> np.ndarray | None:
        """Tokens that the CTC layer is to score, int64 (B, H, pre-beam + 1), the end last; None for all."""
        size = self._options.pre_beam_size
        if not size or self._ctc is None:
            return None
        chosen = np.argpartition(-full, size - 1, axis=2)[..., :size]
        return np.concatenate([chosen, np.full_like(chosen[..., :1], self._options.end)], 2)

    def _with_expected(
        self, candidates: np.ndarray | None, full: np.ndarray, have_words: np.ndarray
    ) -> np.ndarray | None:
        """Candidates with the best by scores that have gained: they take no place of others."""
        if candidates is None:
            return None
        n = min(EXPECTED, full.shape[2])
        more = np.argpartition(-full, n - 1, axis=2)[..., :n]
        # Where a row expects no words nothing is added: what is there twice counts once.
        more = np.where(have_words[:, None, None], more, candidates[..., :1])
        return np.concatenate([candidates[..., :-1], more, candidates[..., -1:]], 2)


def _top(values: np.ndarray, k: int) -> np.ndarray:
    """Places of the `k` largest in each row, in falling order."""
    some = np.argpartition(-values, k - 1, axis=1)[:, :k] if k < values.shape[1] else None
    if some is None:
        return np.argsort(-values, axis=1, kind="stable")
    order = np.argsort(-np.take_along_axis(values, some, 1), axis=1, kind="stable")
    return np.take_along_axis(some, order, 1)


class CtcPrefixScorer:
    """Probability that the speech begins with a hypothesis: for every next token asked for, of every hypothesis.

    The computation of `models/espnet/search.py:CtcPrefixScorer`, which says what is what; here sums over frames are
    done within the window alone.

    Source: Watanabe et al. 2017, Algorithm 2; Seki et al. 2019 for the sums over hypotheses.
    """

    def __init__(self, frames: Sequence[np.ndarray], options: BeamOptions) -> None:
        """Begin with one empty hypothesis a piece; `frames` float32 (N, V) each."""
        self._blank, self._end, self._margin = options.blank, options.end, options.window_margin
        self._lengths = np.array([len(rows) for rows in frames], np.int64)
        n_frames, n_tokens = int(self._lengths.max()), frames[0].shape[1]
        # Frames of a token lie side by side; behind a piece's end a label has certainty, and nothing is said there.
        self._log_p = np.zeros((len(frames), n_tokens, n_frames), np.float32)
        heard = np.zeros((len(frames), n_frames), np.int64)
        for piece, rows in enumerate(frames):
            self._log_p[piece, :, : len(rows)] = rows.T
            heard[piece, : len(rows)] = rows.argmax(1) != self._blank
        self._times = np.arange(n_frames)
        self._inside = self._times < self._lengths[:, None]
        self._blanks = np.cumsum(self._log_p[:, self._blank], 1, dtype=np.float64)
        self._n_heard = heard.cumsum(1)
        self._by_blank = np.where(self._inside, self._blanks, _LOG_ZERO)[:, None]
        self._by_any = self._by_blank
        self._prefix = np.zeros((len(frames), 1))
        self._earliest = np.zeros(len(frames), np.int64)
        self._latest = np.ones(len(frames), np.int64)
        self._n_tokens = 0

    def keep(self, pieces: np.ndarray) -> None:
        """Go on with these pieces alone."""
        for name in (
            *("_lengths", "_log_p", "_inside", "_blanks", "_n_heard", "_by_blank", "_by_any", "_prefix"),
            *("_earliest", "_latest"),
        ):
            setattr(self, name, getattr(self, name)[pieces])

    def score(self, last: np.ndarray, active: np.ndarray, candidates: np.ndarray | None) -> np.ndarray:
        """Gain in log probability, float32 (B, H, S), of each candidate, int64 (B, H, S), None for all V tokens.

        Args:
            last: each hypothesis's last token, (B, H).
            active: bool (B, H): hypotheses that still run; the others do not move the window.
        """
        start, end = self._window(active)
        self._first = min(int(start.min()), len(self._times) - 1)
        self._last_frame = max(int(end.max()), self._first + 1)
        within = slice(self._first, self._last_frame)
        times = self._times[within]
        self._open = ((times >= start[:, None]) & (times < end[:, None]))[:, None]
        # In frame t: what has been said before it.
        self._before = np.where(self._open, self._shifted(self._by_any, self._n_tokens == 0), _LOG_ZERO)
        self._before_same = np.where(self._open, self._shifted(self._by_blank, False), _LOG_ZERO)
        self._last = last
        totals = self._sums(candidates)
        said = self._log_p[np.arange(len(last))[:, None], last, within]
        repeated = _logsumexp(self._before_same + said)[..., None]
        ended = np.take_along_axis(self._by_any, np.maximum(self._lengths - 1, 0)[:, None, None], 2)
        if candidates is None:
            np.put_along_axis(totals, last[..., None], repeated, 2)
            totals[:, :, self._end] = ended[:, :, 0]
            totals[:, :, self._blank] = _LOG_ZERO
        else:
            totals = np.where(candidates == last[..., None], repeated, totals)
            totals = np.where(candidates == self._end, ended, totals)
            totals = np.where(candidates == self._blank, _LOG_ZERO, totals)
        self._totals = totals
        found: np.ndarray = (totals - self._prefix[..., None]).astype(np.float32)
        return found

    def select(self, parents: np.ndarray, places: np.ndarray, tokens: np.ndarray) -> None:
        """Go on with hypotheses that extend those at `parents` by `tokens`, each candidate number `places`; (B, H)."""
        n = self._totals.shape[2]
        within = slice(self._first, self._last_frame)
        self._prefix = np.take_along_axis(self._totals.reshape(len(parents), -1), parents * n + places, 1)
        rows = parents[..., None]
        same = (tokens == np.take_along_axis(self._last, parents, 1))[..., None]
        before = np.where(
            same, np.take_along_axis(self._before_same, rows, 1), np.take_along_axis(self._before, rows, 1)
        )
        said = self._log_p[np.arange(len(tokens))[:, None], tokens, within]
        path = np.cumsum(said, -1, dtype=np.float64)
        label = path + np.logaddexp.accumulate(before - (path - said), -1)
        label = np.where(self._open, label, _LOG_ZERO)
        # Nothing is said outside of the window: behind it there are blanks alone.
        by_label = np.full((*tokens.shape, len(self._times)), _LOG_ZERO)
        by_label[..., within] = label
        blanks = self._blanks[:, None]
        ever = np.full((*tokens.shape, len(self._times)), _LOG_ZERO)
        ever[..., self._first + 1 : self._last_frame + 1] = np.logaddexp.accumulate(label - blanks[..., within], -1)[
            ..., : len(self._times) - self._first - 1
        ]
        ever[..., self._last_frame + 1 :] = ever[..., self._last_frame : self._last_frame + 1]
        by_blank = np.where(self._inside[:, None], np.maximum(blanks + ever, _LOG_ZERO), _LOG_ZERO)
        self._by_blank, self._by_any = by_blank, np.logaddexp(by_label, by_blank)
        self._n_tokens += 1

    def _shifted(self, values: np.ndarray, begins: bool) -> np.ndarray:
        """`values` (B, H, N) in the window, one frame later; in frame 0, certainty if the hypothesis `begins` there."""
        if self._first:
            return values[..., self._first - 1 : self._last_frame - 1]
        zeroth = np.full_like(values[..., :1], 0.0 if begins else _LOG_ZERO)
        return np.concatenate([zeroth, values[..., : self._last_frame - 1]], -1)

    def _sums(self, candidates: np.ndarray | None) -> np.ndarray:
        """Log of the sum over frames of what was said before and the candidate's label; float64 (B, H, S)."""
        top = self._before.max(-1, keepdims=True)
        weights = np.exp(self._before - top).astype(np.float32)  # (B, H, T)
        within = slice(self._first, self._last_frame)
        if candidates is None:
            labels = np.exp(self._log_p[..., within])
            labels *= self._inside[:, None, within]
            sums = weights @ labels.transpose(0, 2, 1)
        else:
            labels = np.exp(self._log_p[np.arange(len(candidates))[:, None, None], candidates, within])
            labels *= self._inside[:, None, None, within]
            sums = (labels @ weights[..., None])[..., 0]
        with np.errstate(divide="ignore"):
            found: np.ndarray = np.maximum(top + np.log(sums.astype(np.float64)), _LOG_ZERO)
        return found

    def _window(self, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The frames in which the next token of each piece may be said, from `start` to before `end`, int64 (B,)."""
        end = self._lengths
        start = np.full_like(end, max(self._n_tokens, 1))
        if self._margin > 0:
            # In single precision, as ESPnet does, so that a plateau has its peak in the same frame.
            peaks = self._by_any.astype(np.float32).argmax(-1)
            low = np.where(active, peaks, len(self._times)).min(1)
            high = np.where(active, peaks, 0).max(1)
            earliest, latest = np.maximum(low, self._earliest), np.maximum(high, self._latest)
            start = np.minimum(self._latest, np.maximum(earliest - self._margin, start))
            end = self._window_end(latest)
            self._earliest, self._latest = earliest, latest
        else:
            start = np.minimum(start, end)
        return np.zeros_like(start) if self._n_tokens == 0 else start, end

    def _window_end(self, latest: np.ndarray) -> np.ndarray:
        n_frames = len(self._times)
        at = np.minimum(latest, n_frames - 1)
        wanted = self._n_heard[np.arange(len(at)), at] + _WINDOW_LABELS
        reach = np.array([np.searchsorted(row, each) for row, each in zip(self._n_heard, wanted, strict=True)])
        reach = np.minimum(reach, self._lengths - 1) + 1
        found: np.ndarray = np.minimum(np.maximum(latest + self._margin + 1, reach), self._lengths)
        return found


def _logsumexp(values: np.ndarray) -> np.ndarray:
    top = values.max(-1)
    found: np.ndarray = top + np.log(np.exp(values - top[..., None]).sum(-1))
    return found
