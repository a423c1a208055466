"""What every way to hear with a personal model has: recordings become pieces, and pieces words with times."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

from pqm_plugin.corpus.recording import Sound, sound_name
from pqm_plugin.errors import PqmError
from pqm_plugin.models.interface import Hypothesis
from pqm_plugin.models.language import AUTO as AUTO_LANGUAGE
from pqm_plugin.models.silence import speech_bounds
from pqm_plugin.personal.confidence import sureness
from pqm_plugin.personal.folder import SAT, SPEAKERS, ModelFolder
from pqm_plugin.personal.pieces import LONGEST_S, batches, may_hold_words, pieces_of, within
from pqm_plugin.personal.transcript import Segment, Transcript
from pqm_plugin.words import WordList, words_of

_SHORTEST_S = 1.0
Words = WordList | Path | str | Sequence[str] | None
"""Words of one's own as callers give them, see `words.words_of`."""


@dataclass
class Tongue:
    """The language of one recording: a code, or `auto` until its first speech is heard; `found` is then what it is."""

    language: str
    found: str = ""

    @property
    def is_open(self) -> bool:
        """Whether it is still to be found."""
        return self.language == AUTO_LANGUAGE

    def settle(self, language: str) -> None:
        """Keep what was found; the whole recording is then in this language."""
        self.language = self.found = language


Search = Callable[[Sequence[Any], Path | None, Tongue], list[Hypothesis]]
"""The best hypothesis of each piece of speech with the adapter in a folder, or none; it settles an open language."""


class Hearing:
    """What is heard of one recording: iterate over its segments, once.

    `adapter` says what it is heard with, as in `Transcript`.
    """

    def __init__(self, adapter: str, found: Iterator[tuple[Segment, float]], tongue: Tongue) -> None:
        self.adapter = adapter
        self.heard_s = 0.0
        """Seconds of the recording that were heard so far, at the end its length."""
        self._found = found
        self._tongue = tongue

    def __iter__(self) -> Iterator[Segment]:
        for segment, end_s in self._found:
            self.heard_s = end_s
            yield segment

    @property
    def language(self) -> str:
        """The code of the language, told or found; `auto` while it is not known."""
        return self._tongue.language

    @property
    def found_language(self) -> str:
        """The code of the language that the model found; empty where it was told."""
        return self._tongue.found


class Listening(ABC):
    """A personal model that hears; what computes it is the part of its subclasses.

    Without a speaker it hears with the speaker-independent adapter (`sat`) where the folder has one, for that is what
    the speakers' adapters start from; `plain` leaves that out, too.
    """

    folder: ModelFolder
    _alone: threading.RLock

    @property
    @abstractmethod
    def recognizer(self) -> Any:
        """What turns pieces of audio into words, with `facts` and `pieces` of a `models/interface.py:Recognizer`."""

    @property
    @abstractmethod
    def max_batch(self) -> int:
        """Most pieces that `search` takes."""

    @abstractmethod
    def language_of(self, speech: Sequence[Any], folder: Path | None) -> str:
        """Code of the language of pieces, float32 (n_samples,) each, as it is told with the adapter in `folder`."""

    @abstractmethod
    def search(
        self,
        speech: Sequence[Any],
        folders: Sequence[Path | None],
        language: str,
        words: WordList | None = None,
    ) -> list[Hypothesis]:
        """The best hypothesis of each piece, all in one batch, each with an adapter of its own or none.

        Words that are kept with the adapter's speaker are expected in it, and beside them those of `words`.
        """

    def _words(self, folders: Sequence[Path | None], words: WordList | None) -> list[WordList | None]:
        """The list of each row of a batch."""
        found = []
        for folder in folders:
            kept = self.folder.words(folder)
            found.append(kept + words if kept and words else kept or words)
        return found

    @abstractmethod
    def _language(self, language: str | None) -> str:
        """The code that the model has for a language; None is the model's own."""

    @property
    def sample_rate(self) -> int:
        """Rate in Hz of the audio that the model hears; other rates are resampled to it."""
        return self.recognizer.facts.sample_rate

    @property
    def speakers(self) -> list[str]:
        """Names of those who are enrolled."""
        return self.folder.speakers()

    def transcribe(
        self,
        audio: Sound,
        speaker: str | None = None,
        *,
        sample_rate: int | None = None,
        channel: int | None = None,
        plain: bool = False,
        longest_s: float = LONGEST_S,
        language: str | None = None,
        words: Words = None,
    ) -> Transcript:
        """Write down what is said in a recording of any length.

        Args:
            audio: a path, a file opened in binary mode, or an array `(n_samples,)` or `(n_samples, n_channels)` of
                floats in [-1, 1] or integers.
            sample_rate: of an array, in Hz; default: the model's own.
            channel: the one that is heard, from 0; None averages all, and warns if they seem to be two people's.
            longest_s: seconds that are searched at once; what is longer is cut where nobody speaks.
            language: of this recording; default: the model's.
            words: names and terms that are expected in it, a `WordList`, a file of them or the lines of one, see
                `words.parse_words`; those that are kept with the speaker are expected in any case.

        Raises:
            PqmError: if the speaker is not enrolled, the audio cannot be read, the language is not known, or the model
                cannot be told words, or not write one of them.
        """
        hearing = self.hear(
            audio,
            speaker,
            sample_rate=sample_rate,
            channel=channel,
            plain=plain,
            longest_s=longest_s,
            language=language,
            words=words,
        )
        segments = tuple(hearing)
        return Transcript(sound_name(audio), hearing.adapter, hearing.heard_s, segments, hearing.found_language)

    def segments(
        self,
        audio: Sound,
        speaker: str | None = None,
        *,
        sample_rate: int | None = None,
        channel: int | None = None,
        plain: bool = False,
        longest_s: float = LONGEST_S,
        trimmed: bool = True,
        language: str | None = None,
        words: Words = None,
    ) -> Iterator[Segment]:
        """Yield the segments of a recording as they are found; arguments and errors as `transcribe`.

        Their times are those of speech; unless they are `trimmed`, each ends where the next begins.

        The first comes when one piece has been searched; later ones are searched several at a time. A file is read as
        it is heard, so that memory does not grow with its length; where it is damaged in its middle, what stands before
        the damage has been yielded when the error comes.
        """
        yield from self.hear(
            audio,
            speaker,
            sample_rate=sample_rate,
            channel=channel,
            plain=plain,
            longest_s=longest_s,
            trimmed=trimmed,
            language=language,
            words=words,
        )

    def hear(
        self,
        audio: Sound,
        speaker: str | None = None,
        *,
        sample_rate: int | None = None,
        channel: int | None = None,
        plain: bool = False,
        longest_s: float = LONGEST_S,
        trimmed: bool = True,
        language: str | None = None,
        most_s: float = inf,
        search: Search | None = None,
        words: Words = None,
    ) -> Hearing:
        """The segments of a recording to iterate over, as `segments` gives them, and what is known beside them.

        Args:
            most_s: seconds of decoded sound; more is an error when they are reached.
            search: computes the words of pieces; default: this model, alone. Whoever shares the model among many calls
                puts pieces of several into one batch here, see `search`; it is not told `words`.

        Raises:
            PqmError: as `transcribe` does, and if the recording is longer than `most_s`.
        """
        name, folder = self.adapter(speaker, plain=plain)
        tongue = self._tongue(language)
        search = search or partial(self._search_alone, words=words_of(words))
        pieces = self._pieces(audio, longest_s, sample_rate, channel)
        found = self._heard(within(pieces, self.sample_rate, most_s), folder, tongue, trimmed, search)
        return Hearing(name, found, tongue)

    def _tongue(self, language: str | None) -> Tongue:
        return Tongue(self._language(language))

    def _pieces(
        self, audio: Sound, longest_s: float = LONGEST_S, sample_rate: int | None = None, channel: int | None = None
    ) -> Iterator[Any]:
        if longest_s < _SHORTEST_S:
            raise PqmError(f"segments of {longest_s:g} s: the shortest that make sense are of {_SHORTEST_S:g} s")
        return pieces_of(self.recognizer, audio, longest_s, sample_rate, channel)

    def _heard(
        self,
        pieces: Iterator[Any],
        folder: Path | None,
        tongue: Tongue,
        trimmed: bool = True,
        search: Search | None = None,
    ) -> Iterator[tuple[Segment, float]]:
        """Each segment, and where the piece in which it was found ends, in seconds."""
        at, rate = 0, self.sample_rate
        for batch in batches(pieces, self.max_batch):
            for piece, best in zip(batch, self._recognize(batch, folder, tongue, search), strict=True):
                first, last = speech_bounds(piece, rate) if trimmed and best.text else (0, len(piece))
                times = (at + first) / rate, (at + last) / rate
                at += len(piece)
                yield Segment(*times, best.text, best.score, sureness(best)), at / rate

    def _recognize(
        self, pieces: Sequence[Any], folder: Path | None, tongue: Tongue, search: Search | None
    ) -> list[Hypothesis]:
        """The best hypothesis of each piece; silence has no words, whatever a model would make of it."""
        heard = [place for place, piece in enumerate(pieces) if may_hold_words(piece, self.sample_rate)]
        found = [Hypothesis("", 0.0, 0)] * len(pieces)
        if heard:
            speech = [pieces[place] for place in heard]
            for place, best in zip(heard, (search or self._search_alone)(speech, folder, tongue), strict=True):
                found[place] = best
        return found

    def _search_alone(
        self, speech: Sequence[Any], folder: Path | None, tongue: Tongue, words: WordList | None = None
    ) -> list[Hypothesis]:
        with self._alone:
            if tongue.is_open:
                tongue.settle(self.language_of(speech, folder))
            return self.search(speech, [folder] * len(speech), tongue.language, words)

    def adapter(self, speaker: str | None = None, *, plain: bool = False) -> tuple[str, Path | None]:
        """Name and folder of the adapter that such a call hears with: `speakers/NAME`, `sat`, or `none`."""
        if speaker is not None:
            if plain:
                raise PqmError(f"speaker {speaker!r} and plain: choose one, plain is without any adapter")
            return f"{SPEAKERS}/{speaker}", self.folder.known_speaker(speaker)
        sat = None if plain else self.folder.sat()
        return (SAT, sat) if sat else ("none", None)
