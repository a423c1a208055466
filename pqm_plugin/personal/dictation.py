"""Words while somebody speaks: pieces end at pauses, and before a piece ends its words so far are known."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pqm_plugin.corpus.audio import Samples
from pqm_plugin.errors import PqmError
from pqm_plugin.models.silence import cut_at_silence
from pqm_plugin.personal.hearing import Listening
from pqm_plugin.personal.pieces import LONGEST_S

_STEP_S = 0.02
_REMEMBERED_S = 10.0  # what room and speech sound like is told by so much of the past
_ROOM_SHARE = 0.1  # the loudness of the room is that below which this share of the steps lies
_LOUD = 3  # steps: the loudness of speech is that of its third loudest, so that a short click is none
_QUIETEST_DB = -70.0  # a room is at least so loud, or the first breath after digital silence would be speech
_SHALLOWEST_DB = 10.0  # with less between room and speech, nobody speaks
_THRESHOLD = 0.3  # of the way from the room up to speech,
_MOST_ABOVE_DB = 15.0  # but no more, or what is soft after something loud would be lost
_BEGINNING = 3  # loud steps among the last five begin a piece
_AMONG = 5
_BEFORE_S = 0.3  # soft consonants before what is loud
_AFTER_S = 0.2
_SHORTEST_S = 0.1  # a piece with less that is loud is a click


@dataclass(frozen=True)
class Pauses:
    """When a piece ends, and how often its words so far are wanted, in seconds.

    `pause_s` of silence end a piece; `longest_s` is the most of one, which is then cut where it is quietest;
    `partial_s` of new sound make a partial result, 0 for none.
    """

    pause_s: float = 0.7
    longest_s: float = 20.0
    partial_s: float = 1.0

    def check(self) -> "Pauses":
        """These values, if they make sense.

        Raises:
            PqmError: if they do not.
        """
        if not 0.1 <= self.pause_s <= 5:
            raise PqmError(f"a pause of {self.pause_s:g} s: between words there are less than 0.1, and 5 are the most")
        if not 2 <= self.longest_s <= LONGEST_S:
            raise PqmError(f"pieces of {self.longest_s:g} s: from 2 to {LONGEST_S:g}")
        if not (self.partial_s == 0 or 0.2 <= self.partial_s <= LONGEST_S):
            raise PqmError(f"partial results each {self.partial_s:g} s: 0 for none, or from 0.2 to {LONGEST_S:g}")
        return self


@dataclass(frozen=True)
class Spoken:
    """Words of one piece, as they are at its end or, not `is_final`, so far; times in seconds from the start."""

    text: str
    start_s: float
    end_s: float
    confidence: float
    is_final: bool
    adapter: str


class Pieces:
    """Cuts sound that comes in blocks into pieces of speech; what is between them is left out."""

    def __init__(self, sample_rate: int, pauses: Pauses) -> None:
        self._rate = sample_rate
        self._pauses = pauses
        self._step = max(1, round(_STEP_S * sample_rate))
        self._levels: deque[float] = deque(maxlen=round(_REMEMBERED_S / _STEP_S))
        self._rest: Samples = np.zeros(0, np.float32)
        self._held: list[Samples] = []
        self._loud: deque[bool] = deque(maxlen=_AMONG)
        self._n_loud = self._n_silent = 0
        self._speaks = False
        self._at = 0

    @property
    def start_s(self) -> float:
        """Where what is being spoken began."""
        return (self._at - sum(map(len, self._held))) / self._rate

    @property
    def so_far(self) -> Samples:
        """What is being spoken, (n_samples,); nothing where nobody speaks."""
        return np.concatenate(self._held) if self._speaks and self._is_speech() else np.zeros(0, np.float32)

    def add(self, block: Samples) -> Iterator[tuple[float, Samples]]:
        """Yield each piece that ends within a block (n,): where it began in seconds, and its samples."""
        sound = np.concatenate([self._rest, block])
        n_steps = len(sound) // self._step
        self._rest = sound[n_steps * self._step :]
        for step in sound[: n_steps * self._step].reshape(n_steps, self._step):
            yield from self._add(step)

    def end(self) -> Iterator[tuple[float, Samples]]:
        """Yield what is being spoken when the sound ends."""
        if self._speaks:
            self._held.append(self._rest)
            self._at += len(self._rest)
            yield from self._ended()
        self._rest = np.zeros(0, np.float32)

    def _add(self, step: Samples) -> Iterator[tuple[float, Samples]]:
        is_loud = self._is_loud(step)
        self._held.append(step)
        self._at += len(step)
        self._loud.append(is_loud)
        if not self._speaks:
            self._speaks = sum(self._loud) >= _BEGINNING
            self._n_loud, self._n_silent = sum(self._loud), 0
            if not self._speaks:
                del self._held[: -round(_BEFORE_S / _STEP_S)]
            return
        self._n_loud += is_loud
        self._n_silent = 0 if is_loud else self._n_silent + 1
        if self._n_silent * _STEP_S >= self._pauses.pause_s:
            yield from self._ended()
        elif len(self._held) * _STEP_S >= self._pauses.longest_s:
            yield from self._cut()

    def _is_loud(self, step: Samples) -> bool:
        power = float(np.square(step, dtype=np.float64).mean())
        level = max(_QUIETEST_DB, 10 * np.log10(max(power, 1e-12)))
        self._levels.append(level)
        levels = np.sort(np.asarray(self._levels))
        speech = levels[-min(_LOUD, len(levels))]
        room = levels[int(_ROOM_SHARE * (len(levels) - 1))]
        above = min(_MOST_ABOVE_DB, _THRESHOLD * (speech - room))
        return bool(speech - room >= _SHALLOWEST_DB and level >= room + above)

    def _is_speech(self) -> bool:
        return self._n_loud * _STEP_S >= _SHORTEST_S

    def _ended(self) -> Iterator[tuple[float, Samples]]:
        start_s, is_speech = self.start_s, self._is_speech()
        silent = self._n_silent - round(_AFTER_S / _STEP_S)
        held = self._held[: len(self._held) - silent] if silent > 0 else self._held
        # The next piece may begin softly.
        self._held = self._held[-min(silent, round(_BEFORE_S / _STEP_S)) :] if silent > 0 else []
        self._speaks, self._n_loud, self._n_silent = False, 0, 0
        self._loud.clear()
        if is_speech:
            yield start_s, np.concatenate(held)

    def _cut(self) -> Iterator[tuple[float, Samples]]:
        """End a piece that is too long where it is quietest; the rest goes on."""
        start_s, whole = self.start_s, np.concatenate(self._held)
        first = cut_at_silence(whole, self._rate, self._pauses.longest_s * 0.99)[0]
        n_steps = max(1, len(first) // self._step)
        self._held = self._held[n_steps:]
        yield start_s, whole[: n_steps * self._step]


def dictate(
    model: Listening,
    sound: Iterable[Samples],
    speaker: str | None = None,
    *,
    plain: bool = False,
    pauses: Pauses | None = None,
    language: str | None = None,
    is_over: Callable[[], bool] = lambda: False,
) -> Iterator[Spoken]:
    """Yield words as they are spoken: partial ones, then at each pause those that stand.

    Args:
        sound: blocks (n,) of float32 in [-1, 1] at the model's rate, a tenth of a second each, or without samples where
            nothing came; a `corpus.live.Feed` tells how much waits, and partial words are left out while it does.
        is_over: is asked after each block; when it says so, what is being spoken is the last piece.

    Raises:
        PqmError: as `Listening.transcribe` does, or as `sound` does.
    """
    pauses = (pauses or Pauses()).check()
    words = _Words(model, speaker, plain, language)
    pieces = Pieces(model.sample_rate, pauses)
    partial = _Partial(pauses.partial_s, model.sample_rate, sound)
    for block in sound:
        for start_s, piece in pieces.add(block):
            yield words.of(piece, start_s, is_final=True)
            partial.reset()
        if is_over():
            break
        if len(so_far := pieces.so_far) and partial.is_due(so_far):
            yield words.of(so_far, pieces.start_s, is_final=False)
            partial.made(so_far)
    for start_s, piece in pieces.end():
        yield words.of(piece, start_s, is_final=True)


class _Partial:
    """When partial words are wanted: not while sound waits, and not so often that nothing else is computed."""

    def __init__(self, every_s: float, sample_rate: int, sound: Any) -> None:
        self._every = every_s * sample_rate
        self._rate = sample_rate
        self._sound = sound
        self.reset()

    def reset(self) -> None:
        self._next = self._every
        self._began = 0.0

    def is_due(self, so_far: Samples) -> bool:
        """Whether the words of so much are wanted; the time until `made` counts."""
        due = bool(self._every) and len(so_far) >= self._next and not self._waits()
        self._began = time.monotonic()
        return due

    def made(self, so_far: Samples) -> None:
        took = time.monotonic() - self._began if hasattr(self._sound, "waiting_s") else 0.0
        self._next = len(so_far) + max(self._every, 2 * took * self._rate)

    def _waits(self) -> bool:
        return float(getattr(self._sound, "waiting_s", 0.0)) > 2 * _STEP_S


class _Words:
    """Hears pieces, each as `transcribe` would."""

    def __init__(self, model: Listening, speaker: str | None, plain: bool, language: str | None) -> None:
        self._model = model
        self._how: dict[str, Any] = {"plain": plain, "language": language}
        self._speaker = speaker
        # What can be wrong with the names is said before anybody speaks.
        model.adapter(speaker, plain=plain)

    def of(self, piece: Samples, start_s: float, *, is_final: bool) -> Spoken:
        found = self._model.transcribe(piece, self._speaker, **self._how)
        spoken = [segment for segment in found.segments if segment.text]
        sure = min((segment.confidence for segment in spoken), default=1.0)
        end_s = start_s + len(piece) / self._model.sample_rate
        return Spoken(found.text, start_s, end_s, sure, is_final, found.adapter)
