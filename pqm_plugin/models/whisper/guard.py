"""Guard Whisper against repetitions and hallucinations: detect them, and search again.

Source: Radford et al. 2022 (Whisper), section 4.5, and openai-whisper, `transcribe.decode_with_fallback`: its tests and
thresholds. Where it draws tokens at rising temperatures, here the beam becomes smaller, so that the same sound has the
same words.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pqm_plugin.biasing import Spelling, WordTrie
from pqm_plugin.models.interface import Hypothesis
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.models.repetition import compression_ratio, without_repetition

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger(__name__)
# Tokens that a search may write: see tests/models/whisper/test_guard.py for how many speech has.
_TOKENS_AT_ONCE = 10
_TOKENS_A_SECOND = 30
_SHORTEST_LOOP = 24  # tokens
_LONGEST_UNIT = 32  # tokens
_COPIES = 4
_CHECKED_EVERY = 4  # steps
_SMALLER_BEAMS = (2, 1)
_NO_SPEECH = ("<|nospeech|>", "<|nocaptions|>")
_NO_REPEAT = {"no_repeat_ngram_size": 3}


@dataclass(frozen=True)
class Attempt:
    """What one search found in a piece, and the probability in [0, 1] that nobody speaks.

    `tokens`: of its words, int64 (U,), of torch or numpy; `is_free`: the search could write what it liked; `is_long`:
    it wrote more than anybody can say in that time.
    """

    hypothesis: Hypothesis
    no_speech: float
    tokens: "Tensor | np.ndarray"
    is_free: bool = True
    is_long: bool = False

    @property
    def mean(self) -> float:
        """Log probability of a token in nats, the end counted as one."""
        return self.hypothesis.score / (self.hypothesis.n_tokens + 1)


Search = Callable[..., list[Attempt]]
"""Searches all pieces with a beam of its first argument, and with further options of transformers' `generate`."""


class Runaway:
    """A stopping criterion of transformers: a piece whose hypotheses repeat themselves, or are beyond any speech.

    A piece stops with all its hypotheses or not at all, so that a hypothesis that repeats itself beside better ones
    takes no place of theirs.
    """

    def __init__(self, n_prompt: int, most: Sequence[int], is_done: Sequence[bool]) -> None:
        """Stop each piece at its `most` tokens, those that are done at once."""
        self._n_prompt = n_prompt
        self._most = np.array([0 if done else n for n, done in zip(most, is_done, strict=True)])

    def __call__(self, input_ids: "Tensor", scores: Any, **_: Any) -> "Tensor":
        """Whether to stop, bool (B * K,), for tokens (B * K, L) of K hypotheses a piece."""
        import torch

        return torch.from_numpy(self.stops(input_ids.cpu().numpy())).to(input_ids.device)

    def stops(self, tokens: np.ndarray) -> np.ndarray:
        """The same of numpy's arrays."""
        n_pieces, n_written = len(self._most), tokens.shape[1] - self._n_prompt
        stops = n_written >= self._most
        if n_written > _SHORTEST_LOOP and n_written % _CHECKED_EVERY == 0:
            # The last token may be of a branch that has left the loop just now.
            looping = loops(tokens[:, self._n_prompt : -1]).reshape(n_pieces, -1)
            stops = stops | (looping.mean(1) > 0.5)
        return np.repeat(stops, len(tokens) // n_pieces)


def loops(tokens: np.ndarray) -> np.ndarray:
    """Whether each row of tokens (B, L) ends in four copies or more of the same tokens, 24 at least; bool (B,)."""
    tokens = np.asarray(tokens)
    found = np.zeros(len(tokens), bool)
    for unit in range(1, _LONGEST_UNIT + 1):
        n = max(_SHORTEST_LOOP, _COPIES * unit)
        if n <= tokens.shape[1]:
            tail = tokens[:, -n:]
            found |= (tail[:, unit:] == tail[:, :-unit]).all(1)
    return found


class Guard:
    """openai-whisper's tests of a text, and what is done with one that fails them."""

    def __init__(self, search: SearchOptions) -> None:
        """Take the thresholds from the options of the search."""
        self._options = search

    def recognize(
        self,
        search: Search,
        beam_size: int,
        score: Callable[[Sequence[str]], list[Hypothesis]],
        n_prompt: int,
        durations_s: Sequence[float],
        *,
        expects: bool = False,
    ) -> list[Hypothesis]:
        """Search all pieces, and those whose words fail the tests again, with smaller beams.

        Args:
            score: gives the hypotheses of texts, one a piece, under the model.
            n_prompt: tokens before the words.
            durations_s: of the pieces, in seconds.
            expects: whether words of one's own are expected: `search` then has an option `expects`, in which pieces,
                and one that repeats itself with them is searched again without.
        """
        tried: list[list[Attempt]] = [[] for _ in durations_s]
        most = [_TOKENS_AT_ONCE + math.ceil(_TOKENS_A_SECOND * length) for length in durations_s]
        beam_sizes = [beam_size, *(size for size in _SMALLER_BEAMS if size < beam_size)]
        plan: list[tuple[int, Mapping[str, Any], bool]] = [(size, {}, False) for size in beam_sizes]
        # A search without the words, and one that may not repeat itself, are for those that do.
        plan = [*plan[:1], *([(beam_size, {}, True)] if expects else []), *plan[1:], (1, _NO_REPEAT, True)]
        for size, options, is_for_loops in plan:
            enough = self._is_clear if is_for_loops else self._settles
            done = [any(map(enough, attempts)) for attempts in tried]
            if all(done):
                continue
            told = {"expects": [all(map(self._is_clear, attempts)) for attempts in tried]} if expects else {}
            found = search(size, stopping_criteria=[Runaway(n_prompt, most, done)], **options, **told)
            for place in (place for place, is_done in enumerate(done) if not is_done):
                is_long = len(found[place].tokens) >= most[place]
                tried[place].append(replace(found[place], is_free=not options, is_long=is_long))
        best = [self.choose(attempts) for attempts in tried]
        for attempts, chosen, length in zip(tried, best, durations_s, strict=True):
            if chosen.is_repaired:
                _say(attempts[0], chosen.text, length)
        if any(chosen.is_repaired and chosen.text for chosen in best):
            scored = score([chosen.text if chosen.is_repaired else "" for chosen in best])
            best = [
                replace(new, is_repaired=True) if old.is_repaired and old.text else old
                for old, new in zip(best, scored, strict=True)
            ]
        return best

    def choose(self, attempts: Sequence[Attempt]) -> Hypothesis:
        """The first that passes; else the likeliest that does not repeat itself; else the first, cut.

        What is cut or taken for silence `is_repaired`; where words are left, their score is still to be computed.
        """
        last = attempts[-1]
        if self._is_silence(last):
            return Hypothesis("", 0.0, 0, is_repaired=bool(last.hypothesis.text))
        if self._settles(last):
            return last.hypothesis
        clear = [attempt for attempt in attempts if attempt.is_free and self._is_clear(attempt)]
        if clear:
            return max(clear, key=lambda attempt: attempt.mean).hypothesis
        first = attempts[0]
        heard = first.no_speech <= self._options.no_speech_threshold
        threshold = self._options.compression_ratio_threshold
        text = without_repetition(first.hypothesis.text, threshold) if heard else ""
        is_cut = text != first.hypothesis.text or not first.is_long
        return Hypothesis(text if is_cut else "", 0.0, 0, is_repaired=True)

    def _settles(self, attempt: Attempt) -> bool:
        return self._is_silence(attempt) or (self._is_trusted(attempt) and self._is_clear(attempt))

    def _is_silence(self, attempt: Attempt) -> bool:
        return attempt.no_speech > self._options.no_speech_threshold and not self._is_trusted(attempt)

    def _is_trusted(self, attempt: Attempt) -> bool:
        return attempt.mean >= self._options.logprob_threshold

    def _is_clear(self, attempt: Attempt) -> bool:
        if attempt.is_long or bool(loops(np.asarray(attempt.tokens)[None])):
            return False
        return compression_ratio(attempt.hypothesis.text) <= self._options.compression_ratio_threshold


class ExpectedWords:
    """A logits processor of transformers: adds what tokens gain to the scores of each hypothesis.

    transformers says what every hypothesis is, not which one it goes on from: states are kept by what was written.
    """

    def __init__(self, tries: Sequence[WordTrie | None], beam_size: int, n_prompt: int) -> None:
        """Take the words of each piece, whose hypotheses stand together, and the length of what stands before."""
        self._tries, self._beam_size, self._n_prompt = tries, beam_size, n_prompt
        self._known: dict[tuple[int, tuple[int, ...]], int] = {}

    def __call__(self, input_ids: "Tensor", scores: "Tensor") -> "Tensor":
        """Scores with what is gained, float32 (B * K, V), for tokens (B * K, L)."""
        import torch

        known: dict[tuple[int, tuple[int, ...]], int] = {}
        rows = []
        for place, row in enumerate(input_ids[:, self._n_prompt :].tolist()):
            piece = place // self._beam_size
            trie, written = self._tries[piece], tuple(row)
            if trie is None:
                rows.append(np.zeros(scores.shape[1], np.float32))
                continue
            before = self._known.get((piece, written[:-1]), trie.start)
            state = known[piece, written] = trie.after(before, written[-1]) if written else trie.start
            rows.append(trie.gains(state))
        self._known = known
        return scores + torch.from_numpy(np.stack(rows)).to(scores.device)


def spelling_of(tokenizer: Any, n_tokens: int) -> Spelling:
    """What each token of a byte-level tokeniser of transformers writes; special ones write nothing."""
    silent = set(tokenizer.added_tokens_decoder)
    vocabulary = tokenizer.get_vocab().items()
    return Spelling.of_byte_level({token: text for text, token in vocabulary if token not in silent}, n_tokens)


def no_speech_token(tokenizer: Any) -> int | None:
    """Id of the token by which the model says that nobody speaks; None in a vocabulary without it."""
    known = tokenizer.get_vocab()
    return next((known[name] for name in _NO_SPEECH if name in known), None)


def _say(first: Attempt, text: str, length_s: float) -> None:
    said = f"{first.hypothesis.text[:40]}…" if len(first.hypothesis.text) > 40 else first.hypothesis.text
    left = f"{text[:80]!r} is left of them" if text else "they are left out"
    _log.warning(
        "words that nobody said in %.1f s of audio (%r, no-speech %.2f): %s", length_s, said, first.no_speech, left
    )
