"""Round weights by recordings: no transcripts are needed, for the words that the float model finds will do."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from pqm_plugin.corpus.audio import duration_s
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError
from pqm_plugin.models.interface import Recognizer
from pqm_plugin.personal.clips import LONGEST_S
from pqm_plugin.personal.pieces import may_hold_words, pieces_of
from pqm_plugin.personal.recordings import find_recordings
from pqm_plugin.quantize.gptq import Moments, moments_of, round_layers
from pqm_plugin.quantize.packed import WeightFormat

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Speech:
    """Recordings to listen to, in order, and how long each is in seconds, as its header says."""

    paths: tuple[Path, ...]
    durations_s: tuple[float, ...]

    @classmethod
    def of(cls, places: Sequence[Path]) -> "Speech":
        """The recordings in folders, with everything below them, or the files that are named; no texts are heeded.

        Raises:
            PqmError: if there is none, or one cannot be read.
        """
        paths = find_recordings(places, unsupervised=True).paths
        return cls(paths, tuple(duration_s(Utterance("", "", "", str(path))) for path in paths))


@dataclass(frozen=True)
class Heard:
    """What weights were rounded by: how many recordings had words in them, and a hash of the sound that was heard."""

    n_recordings: int
    sha256: str


def round_by(recognizer: Recognizer, names: Sequence[str], speech: Speech, weight_format: WeightFormat) -> Heard:
    """Quantise the named layers of a float recogniser, in place, by what they hear of recordings.

    The same recordings give the same bits: sums of float32 depend on how many threads share them, so one computes.

    Raises:
        PqmError: if no words are found in any of them.
    """
    with _one_thread():
        moments = moments_of(recognizer.network.eval(), names)
        heard = _listen(recognizer, moments, speech)
        round_layers(recognizer.network, names, weight_format, moments)
    return heard


def _listen(recognizer: Recognizer, moments: Moments, speech: Speech) -> Heard:
    sound, n_recordings, n_samples = hashlib.sha256(), 0, 0
    rate = recognizer.facts.sample_rate
    with torch.no_grad(), tqdm(total=round(sum(speech.durations_s)), desc="listen", unit="s") as progress:
        for path in speech.paths:
            has_words = False
            for piece in pieces_of(recognizer, path, LONGEST_S):
                if _hear(recognizer, moments, piece):
                    sound.update(piece.tobytes())
                    has_words = True
                n_samples += len(piece)
                progress.update(n_samples // rate - progress.n)
            n_recordings += has_words
    if not n_recordings:
        raise PqmError(
            f"the model finds no words in any of {len(speech.paths)} recordings to calibrate on: give speech of its "
            "language, or leave --calibrate out"
        )
    _log.info("rounding weights by what the layers heard of %d of %d recordings", n_recordings, len(speech.paths))
    return Heard(n_recordings, sound.hexdigest())


def _hear(recognizer: Recognizer, moments: Moments, piece: np.ndarray) -> bool:
    """Let the layers hear a piece as in training, with the float model's own words; False if it has none."""
    if not may_hold_words(piece, recognizer.facts.sample_rate):
        return False
    features = recognizer.features(piece)
    # Before we listen: a decoder that finds its words one by one would hear each of them many times.
    [words] = recognizer.greedy([features])
    tokens = recognizer.token_ids(words)
    if not len(tokens) or recognizer.obstacle(features, tokens):
        return False
    with moments.gathering():
        recognizer.loss([features], [tokens])
    return True


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
