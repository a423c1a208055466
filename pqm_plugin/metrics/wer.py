"""Word and character errors, counted by jiwer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jiwer

from pqm_plugin.errors import PqmError

SPACE = "<space>"


@dataclass(frozen=True)
class ScoredUtterance:
    """What a speaker said and what a system wrote; both may be empty."""

    utterance: str
    speaker: str
    reference: str
    hypothesis: str


@dataclass(frozen=True)
class Step:
    """One column of an alignment: (C)orrect, (S)ubstituted, (D)eleted or (I)nserted; the missing side is empty."""

    kind: Literal["C", "S", "D", "I"]
    reference: str
    hypothesis: str


Alignment = tuple[Step, ...]


@dataclass(frozen=True)
class ErrorCounts:
    """Errors against `words` reference tokens; insertions into an empty reference count like any other."""

    words: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def correct(self) -> int:
        return self.words - self.substitutions - self.deletions

    @property
    def rate(self) -> float:
        """Errors over reference tokens, a fraction that can exceed 1; 0 where there are no reference tokens."""
        return self.errors / self.words if self.words else 0.0


def as_characters(text: str) -> str:
    """Write every character as a token of its own, a blank as `<space>`, which is how ESPnet scores characters."""
    return " ".join(SPACE if character == " " else character for character in " ".join(text.split()))


def align(references: Sequence[str], hypotheses: Sequence[str]) -> list[Alignment]:
    """Align blank-separated tokens with the fewest errors, case-sensitive, one alignment a pair."""
    if not references:
        return []
    output = jiwer.process_words(
        [" ".join(text.split()) for text in references], [" ".join(text.split()) for text in hypotheses]
    )
    triples = zip(output.references, output.hypotheses, output.alignments, strict=True)
    return [
        tuple(step for chunk in chunks for step in _steps(chunk, reference, hypothesis))
        for reference, hypothesis, chunks in triples
    ]


def _steps(chunk: jiwer.AlignmentChunk, reference: list[str], hypothesis: list[str]) -> list[Step]:
    said = reference[chunk.ref_start_idx : chunk.ref_end_idx]
    written = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
    if chunk.type == "delete":
        return [Step("D", word, "") for word in said]
    if chunk.type == "insert":
        return [Step("I", "", word) for word in written]
    kind: Literal["C", "S"] = "C" if chunk.type == "equal" else "S"
    return [Step(kind, *pair) for pair in zip(said, written, strict=True)]


def count_steps(alignment: Alignment) -> ErrorCounts:
    """Count the errors of one alignment."""
    kinds = [step.kind for step in alignment]
    return ErrorCounts(len(kinds) - kinds.count("I"), kinds.count("S"), kinds.count("D"), kinds.count("I"))


def counts(reference: str, hypothesis: str) -> ErrorCounts:
    """Count the word errors of one utterance."""
    return counts_of([reference], [hypothesis])[0]


def counts_of(references: Sequence[str], hypotheses: Sequence[str]) -> list[ErrorCounts]:
    """Count the word errors of every utterance, in the order given."""
    return [count_steps(alignment) for alignment in align(references, hypotheses)]


def add(parts: Sequence[ErrorCounts]) -> ErrorCounts:
    """Sum the counts of several utterances."""
    return ErrorCounts(
        sum(part.words for part in parts),
        sum(part.substitutions for part in parts),
        sum(part.deletions for part in parts),
        sum(part.insertions for part in parts),
    )


def total(parts: Sequence[ErrorCounts], what: str) -> ErrorCounts:
    """Sum the counts of a whole set.

    Raises:
        PqmError: if the references of `what` hold no word at all, for an error rate is not defined then.
    """
    summed = add(parts)
    if not summed.words:
        raise PqmError(
            f"{what}: its {len(parts)} references hold no word, so there is no error rate; "
            "give the set transcripts in its Kaldi file `text`"
        )
    return summed
