"""Search options; imports no library."""

import math
from dataclasses import dataclass, field, fields
from typing import Any

_LATER = {"later": True}
GUARDS = ("auto", "always", "never")


@dataclass(frozen=True)
class SearchOptions:
    """How the best words are searched for.

    Each family uses those that it knows, see its `search_options`.

    `ctc_weight` in [0, 1]: share of the CTC score, the rest is the attention decoder's; `length_bonus`: added log
    probability per token; `max_length_ratio`: longest hypothesis in tokens per encoder frame, 0 for the family's own;
    `batch_size`: pieces of audio that are searched at once; `language`: of the speech, as a code of two or three
    letters, for a model that knows several; `context`: what a model with a window of fixed length encodes, the whole
    `window` or, of a `clip`, what is spoken and a few places of the silence behind it.

    `guard`: whether words that a decoder repeats or makes up are searched again and cut, `always` or `never`; `auto` is
    always in a personal model and never where systems are compared with a stock tool. What it goes by has the names and
    defaults of openai-whisper: `compression_ratio_threshold`, above which a text repeats itself; `logprob_threshold`,
    mean log probability of a token in nats, below which a text is not trusted; `no_speech_threshold` in [0, 1], above
    which a text that is not trusted is taken for silence.

    `words_weight`: times the bonus of words of one's own, see `biasing.py`; without such words it changes nothing.
    """

    beam_size: int = 10
    ctc_weight: float = 0.5
    length_bonus: float = 0.0
    max_length_ratio: float = 0.0
    batch_size: int = 8
    language: str = "en"
    context: str = "window"
    guard: str = field(default="auto", metadata=_LATER)
    compression_ratio_threshold: float = field(default=2.4, metadata=_LATER)
    logprob_threshold: float = field(default=-1.0, metadata=_LATER)
    no_speech_threshold: float = field(default=0.6, metadata=_LATER)
    words_weight: float = field(default=1.0, metadata=_LATER)

    def __post_init__(self) -> None:
        if self.context not in ("window", "clip"):
            raise ValueError(f"context {self.context!r}: use 'window' or 'clip'")
        if self.batch_size < 1 or self.beam_size < 1:
            raise ValueError("batch_size and beam_size must be 1 or more")
        if self.guard not in GUARDS:
            raise ValueError(f"guard {self.guard!r}: use {', '.join(GUARDS)}")
        if not 1 <= self.compression_ratio_threshold < math.inf:
            raise ValueError(f"compression_ratio_threshold {self.compression_ratio_threshold}: use a number from 1")
        if not -math.inf < self.logprob_threshold <= 0:
            raise ValueError(f"logprob_threshold {self.logprob_threshold}: use a number of nats up to 0")
        if not 0 < self.words_weight <= 10:
            raise ValueError(f"words_weight {self.words_weight}: use a number above 0 and up to 10")
        if not 0 <= self.no_speech_threshold <= 1:
            raise ValueError(f"no_speech_threshold {self.no_speech_threshold}: use a number from 0 to 1")

    def guarding(self) -> dict[str, Any]:
        """The options of the guard that are not at their defaults: requests of earlier versions have none."""
        later = (option for option in fields(self) if option.metadata.get("later"))
        return {option.name: value for option in later if (value := getattr(self, option.name)) != option.default}
