"""ESPnet's joint CTC/attention beam search over several utterances at once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pqm_plugin.models.espnet.ctc_prefix import CtcFrames, CtcPrefixScorer
from pqm_plugin.models.espnet.decoder import DecoderSteps

_END_GAP = -10.0
_END_LENGTHS = 3


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
    by_length: dict[int, float] = field(default_factory=dict)

    def add(self, tokens: list[int], score: float) -> None:
        """Note a hypothesis; `tokens` without start and end."""
        if self.best is None or score > self.best.score:
            self.best = Found(tokens, score)
        length = len(tokens)
        self.by_length[length] = max(score, self.by_length.get(length, score))

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
    def __call__(self, encoded: Tensor, lengths: Tensor) -> list[Found | None]:
        """Search in `encoded`, float32 (B, T, D), of `lengths` frames; None where there is no frame."""
        longest = [self._longest(length) for length in lengths.tolist()]
        ended = [_Ended() for _ in longest]
        running = Running(self._model, self.options, encoded, lengths, max(longest))
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
        return [found.best for found in ended]

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
                ended.add(row[1:], score)
            elif alive and row[-1] == self.options.end:
                ended.add(row[1:-1], score)
                alive = False
            active.append(alive and step < longest - 1)
        if self.options.max_length_ratio == 0 and ended.detected(step):
            return [False] * len(active)
        return active


class Running:
    """Hypotheses that have not ended: `tokens` int64 (B, H, n) from the start on, `scores` float32 (B, H)."""

    def __init__(self, model: Any, options: BeamOptions, encoded: Tensor, lengths: Tensor, max_steps: int) -> None:
        self._options = options
        self._decoder = None
        self._ctc = None
        if options.decoder_weight:
            self._decoder = DecoderSteps(model.decoder, encoded, lengths, max_steps + 1)
        if options.ctc_weight:
            frames = CtcFrames.of(model.ctc.log_softmax(encoded), lengths, options.blank)
            self._ctc = CtcPrefixScorer(frames, blank=options.blank, eos=options.end, margin=options.window_margin)
        self._n_tokens = len(model.token_list)
        self.tokens = torch.full((len(encoded), 1, 1), options.start, device=encoded.device)
        self.scores = encoded.new_zeros(len(encoded), 1)
        self.active = torch.ones(len(encoded), 1, dtype=torch.bool, device=encoded.device)

    def advance(self) -> None:
        """Extend every hypothesis by a token and keep the best of each utterance; scores of none are -inf."""
        last = self.tokens[..., -1]
        full = self._full(last)
        candidates = self._candidates(full)
        scores = full if candidates is None else full.gather(2, candidates)
        if self._ctc is not None:
            scores = scores + self._options.ctc_weight * self._ctc.score(last, self.active, candidates)
        scores = scores + self.scores.masked_fill(~self.active, -float("inf"))[..., None]
        if candidates is not None:
            # The end comes last; where the pre-beam has it, it is there twice.
            twice = (candidates[..., :-1] == self._options.end).any(-1)
            scores[..., -1].masked_fill_(twice, -float("inf"))
        n = scores.shape[2]
        self.scores, best = scores.flatten(1).topk(min(self._options.beam_size, scores.shape[1] * n), dim=1)
        parents, places = best // n, best % n
        tokens = places if candidates is None else candidates.flatten(1).gather(1, best)
        if self._decoder is not None:
            self._decoder.select(parents)
        if self._ctc is not None:
            self._ctc.select(parents, places, tokens)
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
