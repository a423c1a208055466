"""Recordings that weights are rounded by: without transcripts, for the words that the float model finds will do."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor
from tqdm import tqdm

from pqm_plugin.corpus.audio import duration_s
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError
from pqm_plugin.models.interface import Recognizer
from pqm_plugin.personal.clips import LONGEST_S
from pqm_plugin.personal.pieces import may_hold_words, pieces_of
from pqm_plugin.personal.recordings import find_recordings

_log = logging.getLogger(__name__)


@dataclass
class CalibrationSpeech:
    """Recordings to calibrate on, in order, and how long each is in seconds, as its header says.

    `n_recordings` and `sound` are known when all was read: how many had words in them, and a hash of that sound. If it
    `finds_language`, each piece is heard in the language that the model finds in it.
    """

    paths: tuple[Path, ...]
    durations_s: tuple[float, ...]
    n_recordings: int = 0
    sound: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    finds_language: bool = False

    @classmethod
    def of(cls, places: Sequence[Path]) -> "CalibrationSpeech":
        """The recordings in folders, with everything below them, or the files that are named; texts are not used.

        Raises:
            PqmError: if there is none, or one cannot be read.
        """
        paths = find_recordings(places, unsupervised=True).paths
        return cls(paths, tuple(duration_s(Utterance("", "", "", str(path))) for path in paths))

    def examples(self, recognizer: Recognizer) -> Iterator[tuple[Tensor, Tensor]]:
        """Features and tokens of each piece in which the float model finds words.

        Raises:
            PqmError: at the end, if there was none.
        """
        n_samples, rate = 0, recognizer.facts.sample_rate
        with tqdm(total=round(sum(self.durations_s)), desc="listen", unit="s") as progress:
            for path in self.paths:
                has_words = False
                for piece in pieces_of(recognizer, path, LONGEST_S):
                    example = _with_own_words(recognizer, piece, finds_language=self.finds_language)
                    if example is not None:
                        yield example
                        self.sound.update(piece.tobytes())
                        has_words = True
                    n_samples += len(piece)
                    progress.update(n_samples // rate - progress.n)
                self.n_recordings += has_words
        if not self.n_recordings:
            raise PqmError(
                f"the model finds no words in any of {len(self.paths)} recordings to calibrate on: give speech of its "
                "language, or leave --calibrate out"
            )
        _log.info("rounding weights by %d of %d recordings", self.n_recordings, len(self.paths))


def _with_own_words(recognizer: Recognizer, piece: np.ndarray, *, finds_language: bool) -> tuple[Tensor, Tensor] | None:
    """A piece (n_samples,) as in training, with the float model's own words; None if it has none."""
    if not may_hold_words(piece, recognizer.facts.sample_rate):
        return None
    if finds_language:
        recognizer.speak(recognizer.language_of([piece]))
    features = recognizer.features(piece)
    [words] = recognizer.greedy([features])
    tokens = recognizer.token_ids(words)
    if not len(tokens) or recognizer.obstacle(features, tokens):
        return None
    return features, tokens
