"""Share one model among the users of the page, and check the audio that they upload."""

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pqm_plugin.adapters.options import WEIGHTS
from pqm_plugin.corpus.audio import Samples, look
from pqm_plugin.corpus.recording import Warn, stream_sound
from pqm_plugin.errors import PqmError
from pqm_plugin.files import sha256
from pqm_plugin.page.guard import Limits
from pqm_plugin.personal.batcher import Batcher, GoneError
from pqm_plugin.personal.enrollment import Enrolled, Watch
from pqm_plugin.personal.folder import ModelFolder
from pqm_plugin.personal.model import PersonalModel
from pqm_plugin.personal.transcript import Transcript

# Decoded samples of a minute may take no more memory than this rate would in stereo, whatever a small file promises.
_RICHEST_HZ = 2 * 96_000


def load_within(path: Path, sample_rate: int, longest_s: float, warn: Warn | None = None) -> Samples:
    """Return samples `(n_samples,)`, float32 in [-1, 1], at `sample_rate` in Hz, of a file of at most `longest_s`.

    `warn` is told what is odd about its channels.

    Raises:
        PqmError: if it is longer, or cannot be read; it names the file without its folder, which is the page's own.
    """
    try:
        check_length(path, longest_s)
        blocks, left = [], longest_s * sample_rate
        for samples in stream_sound(path, sample_rate, warn=_unplaced(path, warn) if warn else None):
            blocks.append(samples)
            left -= len(samples)
            if left < 0:
                raise PqmError(f"{path.name} lasts more than {longest_s:g} s, which is the most: cut it")
        return np.concatenate(blocks)
    except PqmError as error:
        raise PqmError(str(error).replace(str(path), path.name)) from error


def check_length(path: Path, longest_s: float) -> None:
    """Look at what a file says of itself, before it is decoded.

    Raises:
        PqmError: if it is longer than `longest_s`, would take far more memory than speech does, or cannot be read.
    """
    rate, n_channels, duration_s = look(path)
    if duration_s is not None and duration_s > longest_s:
        raise PqmError(f"{path.name} lasts {duration_s:.0f} s, the most is {longest_s:g} s: cut it")
    if (longest_s if duration_s is None else duration_s) * rate * n_channels > longest_s * _RICHEST_HZ:
        raise PqmError(f"{path.name} has {n_channels} channels at {rate} Hz: mix it to mono")


def _unplaced(path: Path, warn: Warn) -> Warn:
    """Say it without the page's folder, and with what can be done on a page."""

    def saying(words: str) -> None:
        warn(words.replace(str(path), path.name).rpartition(": ")[0] + ": bring each channel as a file of its own")

    return saying


# Words of so many recordings are remembered; they are some hundred bytes each.
_MOST_KEPT = 64


@dataclass(frozen=True)
class Heard:
    """The words with one adapter, the seconds it took to find them, and the adapter's size (0 bytes for none).

    `is_kept` where it was known from before, and `seconds` are those of then.
    """

    transcript: Transcript
    seconds: float
    adapter_bytes: int
    is_kept: bool = False

    @property
    def real_time_factor(self) -> float:
        """Seconds of computing for a second of speech."""
        return self.seconds / self.transcript.duration_s


@dataclass(frozen=True)
class Comparison:
    """The same recording as anyone's, and as the speaker's, if one was chosen; `notes` say what is odd about it."""

    before: Heard
    after: Heard | None
    speaker: str | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reading:
    """A recording to train on; `text` is None where there is no transcript."""

    path: Path
    text: str | None


class Desk:
    """One model: transcribes in batches, enrols one speaker at a time, computes no words twice."""

    def __init__(self, model: PersonalModel, limits: Limits) -> None:
        self._model = model
        self.limits = limits
        self.batches = Batcher(model)
        """Where pieces of all who are heard, over the page or the API, are computed."""
        self._turn = threading.Lock()
        self._kept: OrderedDict[tuple[str, str, str], Heard] = OrderedDict()
        self._keeping = threading.Lock()
        self._stops: dict[str, threading.Event] = {}

    @property
    def model(self) -> PersonalModel:
        """The one in memory."""
        return self._model

    @property
    def folder(self) -> ModelFolder:
        """Where the model and its adapters are."""
        return self._model.folder

    @property
    def sample_rate(self) -> int:
        """Sample rate in Hz of the model."""
        return self._model.sample_rate

    def compare(self, path: Path, speaker: str | None, watch: Callable[[str, float], None]) -> Comparison:
        """Hear a recording without and, where a speaker is named, with the speaker's adapter.

        Args:
            watch: is told the adapter, `before` or `after`, and how much is transcribed, in [0, 1].

        Raises:
            PqmError: if the speaker is not enrolled, or the recording is too long or cannot be read.
        """
        notes: list[str] = []
        samples = load_within(path, self._model.sample_rate, self.limits.recording_s, notes.append)
        try:
            before = self._hear(path.name, samples, None, lambda part: watch("before", part))
            after = self._hear(path.name, samples, speaker, lambda part: watch("after", part)) if speaker else None
        except GoneError:
            raise PqmError(f"{path.name}: the server ends: try again when it is back") from None
        return Comparison(before, after, speaker, tuple(notes))

    def _hear(self, name: str, samples: Samples, speaker: str | None, watch: Callable[[float], None]) -> Heard:
        adapter, folder = self._model.adapter(speaker)
        weights = sha256(folder / WEIGHTS) if folder else ""
        words = self._model.folder.words(folder)
        key = (hashlib.sha256(samples.tobytes()).hexdigest(), adapter, weights + (words.digest if words else ""))
        with self._keeping:
            if key in self._kept:
                self._kept.move_to_end(key)
                return replace(self._kept[key], is_kept=True)
        duration_s = len(samples) / self._model.sample_rate
        start, segments = time.perf_counter(), []
        watch(0.0)
        for segment in self._model.hear(samples, speaker, search=self.batches.searching(threading.Event())):
            segments.append(segment)
            watch(min(1.0, segment.end_s / duration_s))
        transcript = Transcript(name, adapter, duration_s, tuple(segments))
        size = (folder / WEIGHTS).stat().st_size if folder else 0
        heard = Heard(transcript, time.perf_counter() - start, size)
        with self._keeping:
            self._kept[key] = heard
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
        return heard

    def enroll(
        self,
        user: str,
        speaker: str,
        readings: Sequence[Reading],
        *,
        anew: bool,
        watch: Watch,
        warn: Warn | None = None,
    ) -> Enrolled:
        """Enrol a speaker; recordings without texts are left out if others have some, as `pqm enroll` does.

        Args:
            user: who may stop it, see `stop`.
            anew: whether an adapter that this speaker has may be replaced.
            watch: see `personal.enrollment.Watch`.
            warn: is told what is odd about a recording's channels.

        Raises:
            PqmError: as `PersonalModel.enroll` does; if the speaker is known and `anew` is False; if a recording, or
                all of them, are too long; or if it was stopped, and then an earlier adapter is as it was.
        """
        self._may_be(speaker, anew=anew)
        spoken = [reading for reading in readings if reading.text] or list(readings)
        texts = [reading.text for reading in spoken if reading.text]
        stop = self._stops[user] = threading.Event()
        try:
            with self._turn:
                clips = self._load([reading.path for reading in spoken], warn)
                done = self._model.enroll(speaker, clips, texts or None, watch=_stoppable(watch, stop, speaker))
        finally:
            del self._stops[user]
        return done

    def _may_be(self, speaker: str, *, anew: bool) -> None:
        self.folder.speaker(speaker)
        if not anew and speaker in self.folder.speakers():
            raise PqmError(f"{speaker} is enrolled already: choose another name, or tick to enrol it anew")

    def _load(self, paths: Sequence[Path], warn: Warn | None) -> list[Samples]:
        clips, left_s = [], self.limits.total_s
        for path in paths:
            clips.append(load_within(path, self._model.sample_rate, self.limits.clip_s, warn))
            left_s -= len(clips[-1]) / self._model.sample_rate
            if left_s < 0:
                raise PqmError(f"the recordings last more than {self.limits.total_s / 60:g} minutes: choose fewer")
        return clips

    def stop(self, user: str) -> bool:
        """End the enrolment of `user` after the batch that is being computed; False if there is none."""
        found = self._stops.get(user)
        if found is not None:
            found.set()
        return found is not None

    def close(self) -> None:
        """End any enrolment and transcription that runs."""
        for user in list(self._stops):
            self.stop(user)
        self.batches.close()


def _stoppable(watch: Watch, stop: threading.Event, speaker: str) -> Watch:
    def watching(step: str, done: int, total: int) -> None:
        if stop.is_set():
            raise PqmError(f"{speaker}: stopped; nothing was changed, and the same recordings go on from here")
        watch(step, done, total)

    return watching
