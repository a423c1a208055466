"""How much speech there is, for people."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Amount:
    """How much speech there is."""

    n_speakers: int
    n_utterances: int
    duration_s: float

    def __str__(self) -> str:
        """Return the amount in words."""
        return f"{self.n_speakers} speakers, {self.n_utterances} utterances, {self.duration_s / 3600:.2f} h"


@dataclass(frozen=True)
class DataSummary:
    """What stage 1 found: amounts by set and by split, why speakers were left out, and what else to look at."""

    sets: dict[str, Amount]
    splits: dict[str, Amount]
    speakers_left_out: dict[str, str]
    warnings: tuple[str, ...]
    partition: Path

    def lines(self) -> list[str]:
        """Return the summary for people, one fact a line."""
        left_out = self.speakers_left_out
        return [
            *(f"set {name}: {amount}" for name, amount in self.sets.items()),
            *(f"split {name}: {amount}" for name, amount in self.splits.items()),
            f"speakers left out: {len(left_out)}",
            *(f"left out: speaker {speaker}: {why}" for speaker, why in sorted(left_out.items())),
        ]
