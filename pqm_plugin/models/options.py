"""Options that need no library to be read."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SearchOptions:
    """How the best words are searched for.

    Each family heeds those that it knows, see its `search_options`.

    `ctc_weight` in [0, 1]: share of the CTC score, the rest is the attention decoder's; `length_bonus`: added log
    probability per token; `max_length_ratio`: longest hypothesis in tokens per encoder frame, 0 for the family's own;
    `batch_size`: pieces of audio that are searched at once; `language`: of the speech, as a code of two or three
    letters, for a model that knows several; `context`: what a model with a window of fixed length encodes, the whole
    `window` or only the `clip` and a second of silence.
    """

    beam_size: int = 10
    ctc_weight: float = 0.5
    length_bonus: float = 0.0
    max_length_ratio: float = 0.0
    batch_size: int = 8
    language: str = "en"
    context: str = "window"

    def __post_init__(self) -> None:
        if self.context not in ("window", "clip"):
            raise ValueError(f"context {self.context!r}: use 'window' or 'clip'")
        if self.batch_size < 1 or self.beam_size < 1:
            raise ValueError("batch_size and beam_size must be 1 or more")
