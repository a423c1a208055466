"""ESPnet's joint CTC/attention beam search over several utterances at once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from pqm_plugin.biasing import EXPECTED, Rows, WordTrie
from pqm_plugin.models.espnet.decoder import DecoderSteps

_END_GAP = -10.0
_END_LENGTHS = 3
LOG_ZERO = -1e10
"""Log probability of what cannot be, as ESPnet writes it: finite, so that differences of it are numbers."""
_WINDOW_LABELS = 5
"""Frames with a label that a window reaches past the prefix, however long the silence before them."""


@dataclass(frozen=True)
class BeamOptions:
    """What ESPnet's own search object was made with.

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
    blank: int
    start: int
    end: int


@dataclass(frozen=True)
class Found:
    """The best hypothesis: its tokens without start and end, and its score in nats."""

    tokens: list[int]
    score: float


@dataclass
class _Ended:
    """Hypotheses of one utterance that have ended: the best of all, and the best score by length."""

    best: Found | None = None
    written: list[int] = field(default_factory=list)
    by_length: dict[int, float] = field(default_factory=dict)

    def add(self, tokens: list[int], score: float, written: list[int]) -> None:
        """Note a hypothesis; `tokens` without start and end, `written` with the end if it has one."""
        if self.best is None or score > self.best.score:
            self.best, self.written = Found(tokens, score), written
        length = len(tokens)
        self.by_length[length] = max(score, self.by_length.get(length, score))

    def without(self, words: WordTrie | None) -> Found | None:
        """The best with the model's own score, without what words of one's own gained."""
        if self.best is None or words is None:
            return self.best
        return Found(self.best.tokens, self.best.score - words.total(self.written))

    def detected(self, step: int) -> bool:
        """Whether those that ended of late are all hopeless (Watanabe et al. 2017, equation 50)."""
        # ESPnet counts start and end with the length, the step does not.
        lengths = [step - back - 2 for back in range(_END_LENGTHS)]
        return self.best is not None and all(
            length in self.by_length and self.by_length[length] - self.best.score < _END_GAP for length in lengths
        )


class BatchedSearch:
    """Finds for each utterance what ESPnet's `BatchBeamSearch` finds for it alone.

    Candidates, their order, the detection of the end and the choice among ended hypotheses are ESPnet's. What differs
    is the work: hypotheses of all utterances are rows of one batch, and the CTC layer scores only the tokens that the
    pre-beam left.
    """

    def __init__(self, model: Any, options: BeamOptions) -> None:
        self._model = model
        self.options = options

    # Not the encoder with it, whose positions outlive the call: what is made in this mode can never be trained on.
    @torch.inference_mode()
    def __call__(self, encoded: Tensor, lengths: Tensor, tries: Sequence[WordTrie | None] = ()) -> list[Found | None]:
        """Search in `encoded`, float32 (B, T, D), of `lengths` frames; None where there is no frame.

        Args:
            tries: the words that each utterance is expected to have, or none; scores are the model's own all the same.
        """
        longest = [self._longest(length) for length in lengths.tolist()]
        ended = [_Ended() for _ in longest]
        running = Running(self._model, self.options, encoded, lengths, max(longest), tries)
        done = [length == 0 for length in longest]
        step = 0
        while not all(done):
            running.advance()
            rows = zip(running.tokens.tolist(), running.scores.tolist(), strict=True)
            active = [
                self._end(step, longest[row], ended[row], tokens, scores) if not done[row] else [False] * len(scores)
                for row, (tokens, scores) in enumerate(rows)
            ]
            done = [not any(flags) for flags in active]
            running.active = torch.tensor(active, device=encoded.device)
            step += 1
        return [found.without(trie) for found, trie in zip(ended, tries or [None] * len(ended), strict=True)]

    def _longest(self, n_frames: int) -> int:
        """Most tokens of a hypothesis; 0 where there is nothing to search in."""
        ratio = self.options.max_length_ratio
        if n_frames == 0:
            return 0
        if ratio < 0:
            return -int(ratio)
        return n_frames if ratio == 0 else max(1, int(ratio * n_frames))

    def _end(
        self, step: int, longest: int, ended: _Ended, tokens: Sequence[list[int]], scores: Sequence[float]
    ) -> list[bool]:
        """Take out what has ended of one utterance; which of its hypotheses go on."""
        active = []
        for row, score in zip(tokens, scores, strict=True):
            alive = score != -float("inf")
            if alive and step == longest - 1:
                # ESPnet adds an end even to what has just ended: the first then stays as a token.
                ended.add(row[1:], score, row[1:])
            elif alive and row[-1] == self.options.end:
                ended.add(row[1:-1], score, row[1:])
                alive = False
            active.append(alive and step < longest - 1)
        if self.options.max_length_ratio == 0 and ended.detected(step):
            return [False] * len(active)
        return active


class Running:
    """Hypotheses that have not ended: `tokens` int64 (B, H, n) from the start on, `scores` float32 (B, H)."""

    def __init__(
        self,
        model: Any,
        options: BeamOptions,
        encoded: Tensor,
        lengths: Tensor,
        max_steps: int,
        tries: Sequence[WordTrie | None] = (),
    ) -> None:
        self._options = options
        self._decoder = None
        self._ctc = None
        if options.decoder_weight:
            self._decoder = DecoderSteps(model.decoder, encoded, lengths, max_steps + 1)
        if options.ctc_weight:
            frames = CtcFrames.of(model.ctc.log_softmax(encoded), lengths, options.blank)
            self._ctc = CtcPrefixScorer(frames, blank=options.blank, eos=options.end, margin=options.window_margin)
        self._n_tokens = len(model.token_list)
        self._words = Rows(tries, self._n_tokens) if tries else None
        self.tokens = torch.full((len(encoded), 1, 1), options.start, device=encoded.device)
        self.scores = encoded.new_zeros(len(encoded), 1)
        self.active = torch.ones(len(encoded), 1, dtype=torch.bool, device=encoded.device)

    def advance(self) -> None:
        """Extend every hypothesis by a token and keep the best of each utterance; scores of none are -inf."""
        last = self.tokens[..., -1]
        full = self._full(last)
        candidates = self._candidates(full)
        if self._words is not None:
            gains = torch.from_numpy(self._words.gains()).to(full.device)
            full = full + gains
            have_words = torch.from_numpy(self._words.have_words()).to(full.device)
            candidates = self._with_expected(candidates, full, have_words)
        scores = full if candidates is None else full.gather(2, candidates)
        if self._ctc is not None:
            scores = scores + self._options.ctc_weight * self._ctc.score(last, self.active, candidates)
        scores = scores + self.scores.masked_fill(~self.active, -float("inf"))[..., None]
        if candidates is not None:
            n_candidates = candidates.shape[2]
            # The end comes last, behind what words of one's own add; the pre-beam may have either, too.
            for place in range(self._options.pre_beam_size, n_candidates):
                twice = (candidates[..., :place] == candidates[..., place, None]).any(-1)
                scores[..., place].masked_fill_(twice, -float("inf"))
        n = scores.shape[2]
        self.scores, best = scores.flatten(1).topk(min(self._options.beam_size, scores.shape[1] * n), dim=1)
        parents, places = best // n, best % n
        tokens = places if candidates is None else candidates.flatten(1).gather(1, best)
        if self._decoder is not None:
            self._decoder.select(parents)
        if self._ctc is not None:
            self._ctc.select(parents, places, tokens)
        if self._words is not None:
            self._words.select(parents.cpu().numpy(), tokens.cpu().numpy())
        kept = self.tokens.gather(1, parents[..., None].expand(-1, -1, self.tokens.shape[2]))
        self.tokens = torch.cat([kept, tokens[..., None]], dim=2)

    def _full(self, last: Tensor) -> Tensor:
        """Weighted scores of all tokens but for the CTC layer's, float32 (B, H, V)."""
        if self._decoder is None:
            full = self.scores.new_zeros(*last.shape, self._n_tokens)
        else:
            full = self._options.decoder_weight * self._decoder.step(last)
        return full + self._options.length_weight if self._options.length_weight else full

    def _candidates(self, full: Tensor) -> Tensor | None:
        """Tokens that the CTC layer is to score, int64 (B, H, pre-beam + 1), the end last; None for all."""
        size = self._options.pre_beam_size
        if not size or self._ctc is None:
            return None
        chosen = full.topk(size, dim=2).indices
        return torch.cat([chosen, torch.full_like(chosen[..., :1], self._options.end)], dim=2)

    def _with_expected(self, candidates: Tensor | None, full: Tensor, have_words: Tensor) -> Tensor | None:
        """Candidates with the best by scores that have gained: they take no place of others."""
        if candidates is None:
            return None
        more = full.topk(min(EXPECTED, full.shape[2]), dim=2).indices
        # Where a row expects no words nothing is added: what is there twice counts once.
        more = torch.where(have_words[:, None, None], more, candidates[..., :1])
        return torch.cat([candidates[..., :-1], more, candidates[..., -1:]], dim=2)


@dataclass(frozen=True)
class CtcFrames:
    """What the CTC layer says of B utterances of up to T frames, laid out for scoring.

    `log_p` float32 (B·V, T), 0 behind an utterance's end; `p` their exponentials, 0 there; `blanks` float64 (B, T):
    log probability of blanks alone up to and with a frame; `n_heard` int64 (B, T): frames so far whose best label is
    no blank; `lengths` int64 (B,).
    """

    log_p: Tensor
    p: Tensor
    blanks: Tensor
    n_heard: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, log_p: Tensor, lengths: Tensor, blank: int) -> Self:
        """From log probabilities, float32 (B, T, V)."""
        outside = torch.arange(log_p.shape[1], device=log_p.device) >= lengths[:, None]
        rows = log_p.mT.masked_fill(outside[:, None], 0.0)
        heard = (log_p.argmax(-1) != blank) & ~outside
        return cls(
            rows.flatten(0, 1),
            log_p.mT.exp().masked_fill(outside[:, None], 0.0).flatten(0, 1),
            rows[:, blank].double().cumsum(-1),
            heard.cumsum(-1),
            lengths,
        )


class CtcPrefixScorer:
    """Probability that the speech begins with a hypothesis: for every next token asked for, of every hypothesis.

    A hypothesis keeps, for each frame, the log probability that exactly it has been said, by a label (`n`) or a blank
    (`b`) in that frame. The score of a longer prefix is a sum over frames alone, so the recursion over frames is done
    only for those that survive pruning; there it is a cumulative sum in the log domain.

    Like ESPnet's, the sums may be limited to a window around the frame that the prefix has reached.

    Source: Watanabe et al. 2017, Algorithm 2; Seki et al. 2019 for the sums over hypotheses.
    """

    def __init__(self, frames: CtcFrames, *, blank: int, eos: int, margin: int) -> None:
        """Begin with one empty hypothesis an utterance; `margin` in frames, 0 for no window."""
        self._frames = frames
        self._blank, self._eos, self._margin = blank, eos, margin
        n_utterances, n_frames = frames.blanks.shape
        device = frames.blanks.device
        self._times = torch.arange(n_frames, device=device)
        self._inside = self._times < frames.lengths[:, None]
        self._first_row = torch.arange(n_utterances, device=device)[:, None] * (len(frames.p) // n_utterances)
        self._by_blank = frames.blanks[:, None].masked_fill(~self._inside[:, None], LOG_ZERO)  # (B, H, T)
        self._by_any = self._by_blank
        self._prefix = torch.zeros(n_utterances, 1, dtype=torch.float64, device=device)  # (B, H)
        self._earliest = torch.zeros(n_utterances, dtype=torch.int64, device=device)
        self._latest = torch.ones_like(self._earliest)
        self._n_tokens = 0

    def score(self, last: Tensor, active: Tensor, candidates: Tensor | None) -> Tensor:
        """Gain in log probability, float32 (B, H, S), of each candidate, int64 (B, H, S), None for all V tokens.

        Args:
            last: each hypothesis's last token, (B, H).
            active: bool (B, H): hypotheses that still run; the others do not move the window.
        """
        self._set_window(active)
        # In frame t: what has been said before it.
        self._before = _shifted(self._by_any, self._n_tokens == 0).masked_fill(~self._window, LOG_ZERO)
        self._before_same = _shifted(self._by_blank, False).masked_fill(~self._window, LOG_ZERO)
        self._last = last
        totals = self._sums(candidates)
        totals = self._score_same(totals, last, candidates)
        end = (self._frames.lengths - 1).clamp(min=0)[:, None, None].expand(-1, last.shape[1], 1)
        ended = self._by_any.gather(2, end)  # (B, H, 1)
        if candidates is None:
            totals[:, :, self._eos] = ended[:, :, 0]
            totals[:, :, self._blank] = LOG_ZERO
        else:
            totals = torch.where(candidates == self._eos, ended, totals)
            totals = totals.masked_fill(candidates == self._blank, LOG_ZERO)
        self._totals = totals
        return (totals - self._prefix[..., None]).float()

    def select(self, parents: Tensor, places: Tensor, tokens: Tensor) -> None:
        """Go on with hypotheses that extend those at `parents` by `tokens`, each candidate number `places`; (B, H)."""
        n_frames = len(self._times)
        self._prefix = self._totals.flatten(1).gather(1, parents * self._totals.shape[2] + places)
        rows = parents[..., None].expand(-1, -1, n_frames)
        same = (tokens == self._last.gather(1, parents))[..., None]
        before = torch.where(same, self._before_same.gather(1, rows), self._before.gather(1, rows))
        said = self._frames.log_p[(self._first_row + tokens).flatten()].view(*tokens.shape, n_frames).double()
        path = said.cumsum(-1)
        by_label = path + torch.logcumsumexp(before - (path - said), -1)
        by_label = by_label.masked_fill(~self._window, LOG_ZERO)
        blanks = self._frames.blanks[:, None]
        by_blank = blanks + torch.logcumsumexp(_shifted(by_label - blanks, False), -1)
        self._by_blank = by_blank.masked_fill(~self._inside[:, None], LOG_ZERO).clamp(min=LOG_ZERO)
        self._by_any = torch.logaddexp(by_label, self._by_blank)
        self._n_tokens += 1

    def _sums(self, candidates: Tensor | None) -> Tensor:
        """Log of the sum over frames of what was said before and the candidate's label; float64 (B, H, S)."""
        top = self._before.amax(-1, keepdim=True)
        weights = (self._before - top).exp().float()  # (B, H, T)
        if candidates is None:
            sums = weights @ self._frames.p.view(len(weights), -1, weights.shape[2]).mT
        else:
            rows = (self._first_row[..., None] + candidates).flatten()
            labels = self._frames.p.index_select(0, rows).view(-1, candidates.shape[2], weights.shape[2])
            sums = (labels @ weights.flatten(0, 1)[..., None]).view(candidates.shape)
        return (top + sums.double().log()).clamp(min=LOG_ZERO)

    def _score_same(self, totals: Tensor, last: Tensor, candidates: Tensor | None) -> Tensor:
        """Let a candidate that repeats the last token begin only after a blank."""
        said = self._frames.log_p[(self._first_row + last).flatten()].view(self._before_same.shape)
        repeated = torch.logsumexp(self._before_same + said, -1, keepdim=True)
        if candidates is None:
            return totals.scatter(2, last[..., None], repeated)
        return torch.where(candidates == last[..., None], repeated, totals)

    def _set_window(self, active: Tensor) -> None:
        """Set `_window`, bool (B, 1, T): the frames in which the next token may be said."""
        end = self._frames.lengths
        start = torch.full_like(end, max(self._n_tokens, 1))
        if self._margin > 0:
            # In single precision, as ESPnet does, so that a plateau has its peak in the same frame.
            peaks = self._by_any.float().argmax(-1)
            low = peaks.masked_fill(~active, len(self._times)).amin(1)
            high = peaks.masked_fill(~active, 0).amax(1)
            earliest, latest = torch.maximum(low, self._earliest), torch.maximum(high, self._latest)
            start = torch.minimum(self._latest, torch.maximum(earliest - self._margin, start))
            end = self._window_end(latest)
            self._earliest, self._latest = earliest, latest
        else:
            start = torch.minimum(start, end)
        if self._n_tokens == 0:
            start = torch.zeros_like(start)
        window = (self._times >= start[:, None]) & (self._times < end[:, None])
        self._window = window[:, None]

    def _window_end(self, latest: Tensor) -> Tensor:
        at = latest.clamp(max=len(self._times) - 1)[:, None]
        wanted = self._frames.n_heard.gather(1, at) + _WINDOW_LABELS
        reach = torch.searchsorted(self._frames.n_heard, wanted)[:, 0]
        reach = torch.minimum(reach, self._frames.lengths - 1) + 1
        return torch.minimum(torch.maximum(latest + self._margin + 1, reach), self._frames.lengths)


def _shifted(values: Tensor, begins: bool) -> Tensor:
    """`values` (…, T) one frame later; in frame 0, certainty if the hypothesis `begins` there."""
    return torch.cat([torch.full_like(values[..., :1], 0.0 if begins else LOG_ZERO), values[..., :-1]], dim=-1)
