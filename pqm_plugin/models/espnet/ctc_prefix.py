"""CTC prefix scores of many hypotheses of many utterances at once."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

LOG_ZERO = -1e10
"""Log probability of what cannot be, as ESPnet writes it: finite, so that differences of it are numbers."""
_WINDOW_LABELS = 5
"""Frames with a label that a window reaches past the prefix, however long the silence before them."""


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
