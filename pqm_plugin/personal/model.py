"""A personal model in memory: hear, learn a voice, hear better."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pqm_plugin.adapters.bank import AdapterBank
from pqm_plugin.corpus.recording import Sound, load_sound, sound_name
from pqm_plugin.errors import PqmError
from pqm_plugin.models.interface import Hypothesis
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.models.silence import speech_bounds
from pqm_plugin.personal.clips import LONGEST_S, Clip
from pqm_plugin.personal.confidence import sureness
from pqm_plugin.personal.enrollment import Enrolled, Watch, enroll
from pqm_plugin.personal.folder import SAT, SPEAKERS, ModelFolder
from pqm_plugin.personal.opening import Opened, mode_for, open_packed
from pqm_plugin.personal.options import EnrollOptions, enroll_options, search_options
from pqm_plugin.personal.pieces import batches, may_hold_words, pieces_of
from pqm_plugin.personal.transcript import Segment, Transcript
from pqm_plugin.quantize.modes import AUTO

_SHORTEST_S = 1.0


class PersonalModel:
    """A packed base and the adapters of its speakers, from a folder of `pqm quantize`, `pqm unpack` or a recipe.

    Without a speaker it hears with the speaker-independent adapter (`sat`) where the folder has one, for that is what
    the speakers' adapters start from; `plain` leaves that out, too.
    """

    def __init__(
        self, path: str | Path, search: SearchOptions | None = None, device: str = "cpu", mode: str = "exact"
    ) -> None:
        """Open the model.

        Args:
            search: beam and weights of the search; by default what the model's maker set, see `about.json`.
            device: where torch computes, `cpu` or `cuda`.
            mode: `exact` keeps float32 weights in memory, `small` unpacks them at every use, with the same words;
                `fast` multiplies in bfloat16; `auto` takes what fits, see `quantize.modes.pick_mode`, and logs it.

        Raises:
            PqmError: if the folder holds no packed model, or it is damaged.
        """
        self.folder = ModelFolder.of(path)
        self._search = search or search_options(self.folder.about())
        self._device = device
        self.mode = mode_for(self.folder, device) if mode == AUTO else mode
        self._alone = threading.RLock()
        self.reopen()

    def reopen(self) -> None:
        """Read the base and forget the adapters in memory, for one of the same name may have been written since.

        Raises:
            PqmError: as opening it the first time does.
        """
        self._opened: Opened = open_packed(self.folder, self._search, self._device, self.mode)
        self._bank = AdapterBank(self._opened.recognizer.network, self._opened.sha256)
        # Asked for now, before threads share the model: it may try the search out.
        self._max_batch = self._opened.recognizer.max_batch

    @property
    def recognizer(self) -> Any:
        """The recogniser of the model's family, see `models/interface.py:Recognizer`."""
        return self._opened.recognizer

    @property
    def sample_rate(self) -> int:
        """Rate in Hz of the audio that the model hears; other rates are resampled to it."""
        return self._opened.recognizer.facts.sample_rate

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
    ) -> Transcript:
        """Write down what is said in a recording of any length.

        Args:
            audio: a path, a file opened in binary mode, or an array `(n_samples,)` or `(n_samples, n_channels)` of
                floats in [-1, 1] or integers.
            sample_rate: of an array, in Hz; default: the model's own.
            channel: the one that is heard, from 0; None averages all, and warns if they seem to be two people's.
            longest_s: seconds that are searched at once; what is longer is cut where nobody speaks.

        Raises:
            PqmError: if the speaker is not enrolled, or the audio cannot be read.
        """
        name, folder = self.adapter(speaker, plain=plain)
        segments, durations_s = zip(*self._heard(audio, folder, longest_s, sample_rate, channel), strict=True)
        return Transcript(sound_name(audio), name, sum(durations_s), segments)

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
    ) -> Iterator[Segment]:
        """Yield the segments of a recording as they are found; arguments and errors as `transcribe`.

        Their times are those of speech; unless they are `trimmed`, each ends where the next begins.

        The first comes when one piece has been searched; later ones are searched several at a time. A file is read as
        it is heard, so that memory does not grow with its length; where it is damaged in its middle, what stands before
        the damage has been yielded when the error comes.
        """
        _, folder = self.adapter(speaker, plain=plain)
        for segment, _ in self._heard(audio, folder, longest_s, sample_rate, channel, trimmed=trimmed):
            yield segment

    def _heard(
        self,
        audio: Sound,
        folder: Path | None,
        longest_s: float,
        sample_rate: int | None,
        channel: int | None,
        *,
        trimmed: bool = True,
    ) -> Iterator[tuple[Segment, float]]:
        """Each segment, and how long the piece in which it was found is, in seconds."""
        if longest_s < _SHORTEST_S:
            raise PqmError(f"segments of {longest_s:g} s: the shortest that make sense are of {_SHORTEST_S:g} s")
        pieces = pieces_of(self._opened.recognizer, audio, longest_s, sample_rate, channel)
        at, rate = 0, self.sample_rate
        for batch in batches(pieces, self._max_batch):
            for piece, best in zip(batch, self._recognize(batch, folder), strict=True):
                first, last = speech_bounds(piece, rate) if trimmed and best.text else (0, len(piece))
                times = (at + first) / rate, (at + last) / rate
                yield Segment(*times, best.text, best.score, sureness(best)), len(piece) / rate
                at += len(piece)

    def _recognize(self, pieces: Sequence[Any], folder: Path | None) -> list[Hypothesis]:
        """The best hypothesis of each piece; silence has no words, whatever a model would make of it."""
        heard = [place for place, piece in enumerate(pieces) if may_hold_words(piece, self.sample_rate)]
        found = [Hypothesis("", 0.0, 0)] * len(pieces)
        if heard:
            with self.using(folder, len(heard)), torch.no_grad():
                for place, best in zip(
                    heard, self._opened.recognizer.recognize([pieces[place] for place in heard]), strict=True
                ):
                    found[place] = best
        return found

    def adapter(self, speaker: str | None = None, *, plain: bool = False) -> tuple[str, Path | None]:
        """Name and folder of the adapter that such a call hears with: `speakers/NAME`, `sat`, or `none`."""
        if speaker is not None:
            if plain:
                raise PqmError(f"speaker {speaker!r} and plain: choose one, plain is without any adapter")
            return f"{SPEAKERS}/{speaker}", self.folder.known_speaker(speaker)
        sat = None if plain else self.folder.sat()
        return (SAT, sat) if sat else ("none", None)

    @contextmanager
    def using(self, folder: Path | None, n_rows: int = 1) -> Iterator[None]:
        """Within it, the network computes batches of `n_rows` with the adapter in `folder`, or with none.

        Threads that share the model wait for each other here: it computes with one adapter at a time.
        """
        with self._alone, self._bank.rows([] if folder is None else [folder] * n_rows):
            yield

    def enroll(
        self,
        speaker: str,
        clips: Sequence[Sound],
        texts: Sequence[str] | None = None,
        *,
        sample_rate: int | None = None,
        channel: int | None = None,
        options: EnrollOptions | None = None,
        watch: Watch | None = None,
    ) -> Enrolled:
        """Learn a voice from recordings, and keep it in the model's folder as an ordinary PEFT adapter.

        A minute of speech is a good beginning, ten are better. The same recordings again: nothing is done. A run that
        was cut off goes on where it was.

        Args:
            speaker: a name that can be a folder's, see `files.safe_name`.
            clips: as `transcribe` takes them, each of one sentence or two, 30 seconds at most.
            texts: what is said in each; None lets the model learn from its own words where it is sure of them.
            sample_rate: of arrays, in Hz; default: the model's own.
            channel: of every clip, the one that is heard, from 0; None averages all.
            options: default: what the model's maker set, see `about.json`.
            watch: is told how far it is, see `enrollment.Watch`.

        Raises:
            PqmError: if the name or the recordings are of no use, another process enrols the same speaker, or what
                was learned is no better than nothing.
        """
        options = options or enroll_options(self.folder.about())
        if texts is not None and len(texts) != len(clips):
            raise PqmError(f"{len(clips)} clips and {len(texts)} texts: give a text for each clip")
        ready = [
            Clip(
                _clip_name(clip, place),
                load_sound(clip, self.sample_rate, sample_rate, channel),
                texts[place] if texts else "",
            )
            for place, clip in enumerate(clips)
        ]
        hears = self if texts is None else None
        done = enroll(self.folder, speaker, ready, options, self._search, hears, self._device, watch)
        if done.is_new:
            # The bank would go on with the adapter of that name that it may have in memory.
            with self._alone:
                self.reopen()
        return done

    def info(self) -> Mapping[str, Any]:
        """Sizes, hashes, licence and measured error rates, see `facts.facts`."""
        from pqm_plugin.personal.facts import facts

        return facts(self.folder)


def _clip_name(clip: Any, place: int) -> str:
    name = sound_name(clip)
    return f"clip {place + 1}" if name == "audio" else Path(name).name
