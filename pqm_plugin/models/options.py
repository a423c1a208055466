"""Options that need no library to be read."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SearchOptions:
    """How the best words are searched for.

    `ctc_weight` in [0, 1]: share of the CTC score, the rest is the attention decoder's; `length_bonus`: added log
    probability per token; `max_length_ratio`: longest hypothesis in tokens per encoder frame, 0 for the family's own.
    """

    beam_size: int = 10
    ctc_weight: float = 0.5
    length_bonus: float = 0.0
    max_length_ratio: float = 0.0
