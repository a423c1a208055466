"""The cuts of lhotse as utterances: sound that lies in a file by its place there, other sound as lhotse makes it."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from pqm_plugin.corpus.audio import Samples
from pqm_plugin.corpus.names import on_disk
from pqm_plugin.corpus.readers._rows import Names, bad
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError
from pqm_plugin.files import safe_name, whole_file

# Ends that are rounded, and a breath: less than a word.
_TOLERANCE_S = 0.1
_LONGEST_NAME = 80


@contextmanager
def in_a_line(what: str, remedy: str) -> Iterator[None]:
    """Say in one line whatever lhotse, and what it reads with, raises.

    Raises:
        PqmError: instead of any other error.
    """
    try:
        yield
    except PqmError:
        raise
    except Exception as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise PqmError(f"{what} ({why}): {remedy}") from error


@dataclass(frozen=True)
class Placed:
    """A cut with the place `file:line` of each supervision in it, and of its own."""

    cut: Any
    places: Sequence[str]
    place: str


@dataclass(frozen=True)
class _Part:
    """Where a piece of sound lies: a file or command, seconds in it, and its channel there (None: their average)."""

    audio: str
    start_s: float
    end_s: float
    channel: int | None


class Cuts:
    """Turns cuts into utterances, for one set."""

    def __init__(self, folder: Path, sounds: Path | None) -> None:
        """Relative paths are looked up from where the program runs, as lhotse does, and else in `folder`.

        Args:
            sounds: where sound is written that lies in no file; None: it is not.
        """
        self._folder, self._sounds = folder, sounds
        self._names = Names()
        self._recordings: dict[str, str] = {}
        self._loaded: tuple[Any, Samples] | None = None

    def utterances(self, placed: Placed) -> Iterator[Utterance]:
        """One for each supervision of a cut; one that is of no use carries its problem."""
        cut = placed.cut
        if not cut.supervisions:
            yield bad(placed.place, f"cut {cut.id} has no supervision, so that nobody knows who says what", cut.id)
            return
        cut = self._found(cut)
        for supervision, place in zip(placed.cut.supervisions, placed.places, strict=True):
            try:
                with in_a_line(f"{supervision.id}: lhotse cannot give its sound", "correct the manifest or the file"):
                    utterance = self._utterance(cut, supervision, place)
            except PqmError as error:
                utterance = bad(place, str(error), str(supervision.id), str(supervision.speaker or ""))
            yield utterance

    def _found(self, cut: Any) -> Any:
        """The cut with files beside the manifest, where they are not where the program runs."""
        lost = [
            source.source
            for recording in _recordings(cut)
            for source in recording.sources
            if source.type == "file" and not os.path.isabs(source.source) and not os.path.exists(source.source)
        ]
        return cut.with_recording_path_prefix(os.path.abspath(self._folder)) if lost else cut

    def _utterance(self, cut: Any, supervision: Any, place: str) -> Utterance:
        who = str(supervision.id)
        if not cut.has_recording:
            raise PqmError(f"{who}: its cut has features alone: give the manifest that names the recordings, too")
        if not supervision.speaker:
            raise PqmError(f"{who} has no speaker: name who speaks in the supervision's field `speaker`")
        if not (supervision.text or "").strip():
            raise PqmError(f"{who} has no text: write what is said in the supervision's field `text`")
        speaker = safe_name(str(supervision.speaker))
        _check_alone(cut, supervision)
        start_s, end_s = _span(cut, supervision)
        text = " ".join(supervision.text.split())
        part = _part(cut, supervision, start_s, end_s)
        name = self._name(cut, supervision, place)
        source = _recordings(cut)[0].id if _recordings(cut) else ""
        if part is None:
            audio = self._made(cut, supervision, name, start_s, end_s)
            return Utterance(name, speaker, text, str(audio), 0.0, None, name, source, place)
        recording = self._recordings.setdefault(part.audio, name)
        span = part.start_s, part.end_s
        return Utterance(name, speaker, text, part.audio, *span, recording, source, place, channel=part.channel)

    def _name(self, cut: Any, supervision: Any, place: str) -> str:
        """The supervision's, as Kaldi would have it; with the cut's, too, where others have it (copies that differ)."""
        try:
            return self._names.take(_plain(str(supervision.id)), place)
        except PqmError:
            return self._names.take(_plain(f"{cut.id}-{supervision.id}"), place)

    def _made(self, cut: Any, supervision: Any, name: str, start_s: float, end_s: float) -> Path:
        """Write what lhotse computes of a supervision as 32-bit floats; a file that is there already is left alone."""
        if self._sounds is None:
            raise PqmError(f"{supervision.id}: its sound is in no file, lhotse computes it: run stage 1, which does")
        path = Path(os.path.abspath(self._sounds / f"{name}.{_digest(cut, start_s, end_s)}.wav"))
        if not path.is_file():
            samples = self._samples(cut)
            chosen = samples[_rows(cut, supervision, len(samples))].mean(axis=0, dtype=np.float32)
            start, stop = (round(at * cut.sampling_rate) for at in (start_s, end_s))
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as scratch:
                soundfile.write(scratch, chosen[start:stop], cut.sampling_rate, "FLOAT", format="WAV")
        return path

    def _samples(self, cut: Any) -> Samples:
        """Of the whole cut, `(n_channels, n_samples)`: parts of a mix alone would be mixed at other levels."""
        if self._loaded is None or self._loaded[0] is not cut:
            try:
                self._loaded = cut, np.atleast_2d(cut.load_audio())
            except Exception as error:
                if "sox_effects" not in str(error):
                    raise
                raise PqmError(
                    f"{cut.id}: lhotse computes a change of tempo with torchaudio.sox_effects, which torchaudio has no "
                    "longer from 2.9 on: write the changed sound to files (CutSet.save_audios) where it has"
                ) from error
        return self._loaded[1]


def _plain(name: str) -> str:
    """A name that can be a file's; what is changed is told apart by its hash."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip("._-")[:_LONGEST_NAME].rstrip(".")
    return name if plain == name else f"{plain or 'cut'}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _tracks(cut: Any) -> list[Any]:
    """What is mixed in a cut, without padding; empty for a cut of one recording."""
    return [track for track in getattr(cut, "tracks", ()) if type(track.cut).__name__ != "PaddingCut"]


def _recordings(cut: Any) -> list[Any]:
    """All recordings that a cut is made of."""
    if hasattr(cut, "tracks"):
        return [found for track in _tracks(cut) for found in _recordings(track.cut)]
    found = getattr(cut, "recording", None)
    return [] if found is None else [found]


def _channels(of: Any) -> frozenset[int]:
    """The channels of a cut or a supervision."""
    return frozenset(of.channel if isinstance(of.channel, list | tuple) else [of.channel])


def _check_alone(cut: Any, supervision: Any) -> None:
    """See that nobody else speaks in the sound of a supervision.

    Raises:
        PqmError: if another one's supervision overlaps it on one of its channels, or, in a mix, on any.
    """
    is_mixed = len(_tracks(cut)) > 1
    for other in cut.supervisions:
        same = other is supervision or (other.speaker and other.speaker == supervision.speaker)
        if same or not (other.speaker or other.text):
            continue
        overlap_s = min(other.end, supervision.end) - max(other.start, supervision.start)
        if overlap_s > _TOLERANCE_S and (is_mixed or _channels(other) & _channels(supervision)):
            raise PqmError(
                f"{supervision.id}: {other.speaker or 'somebody without a name'} speaks in {overlap_s:.2f} s of it, "
                "too: an adapter learns one voice, so leave it out, or give each speaker's own recording"
            )


def _span(cut: Any, supervision: Any) -> tuple[float, float]:
    """Start and end of a supervision, in seconds from the cut's own start.

    Raises:
        PqmError: if the cut does not hold all of it.
    """
    outside_s = max(-supervision.start, supervision.end - cut.duration)
    if outside_s > _TOLERANCE_S:
        raise PqmError(
            f"{supervision.id}: {outside_s:.2f} s of it lie outside of its cut, so that its text is not what is said: "
            "cut by supervisions (trim_to_supervisions), or leave it out"
        )
    return max(0.0, supervision.start), min(cut.duration, supervision.end)


def _part(cut: Any, supervision: Any, start_s: float, end_s: float) -> _Part | None:
    """The place of a supervision's sound in a file or command; None where lhotse has to make it."""
    shift_s, tracks = 0.0, _tracks(cut)
    if hasattr(cut, "tracks"):
        if len(tracks) != 1 or getattr(cut, "transforms", None) or tracks[0].snr is not None:
            return None
        shift_s, cut = -tracks[0].offset, tracks[0].cut
        if start_s + shift_s < -1e-6 or end_s + shift_s > cut.duration + 1e-6:
            return None
    recording = cut.recording
    wanted = _wanted(cut, supervision)
    sources = [source for source in recording.sources if wanted & frozenset(source.channels)]
    if recording.transforms or len(sources) != 1 or sources[0].type not in ("file", "command"):
        return None
    there = list(sources[0].channels)
    if not wanted <= frozenset(there) or 1 < len(wanted) < len(there):
        return None
    channel = there.index(min(wanted)) if len(wanted) == 1 < len(there) else None
    named = sources[0].source
    audio = f"{named} |" if sources[0].type == "command" else os.path.abspath(on_disk(Path(named)))
    return _Part(audio, max(0.0, cut.start + shift_s + start_s), cut.start + shift_s + end_s, channel)


def _wanted(cut: Any, supervision: Any) -> frozenset[int]:
    """The channels of the recording that a supervision is heard on: all of the cut where it names others."""
    return _channels(cut) & _channels(supervision) or _channels(cut)


def _rows(cut: Any, supervision: Any, n_rows: int) -> list[int]:
    """Which rows of what lhotse loads are the supervision's; all of a mix, whose channels have no names."""
    known = sorted(_channels(cut))
    if len(known) != n_rows or hasattr(cut, "tracks"):
        return list(range(n_rows))
    return [known.index(channel) for channel in sorted(_wanted(cut, supervision))]


def _digest(cut: Any, start_s: float, end_s: float) -> str:
    """Hash (12 hexadecimal digits) of what a sound is made of: recordings, their sizes, transforms, times."""
    hashes = [
        hashlib.sha256(source.source).hexdigest()
        if isinstance(source.source, bytes)
        else (source.source, os.path.getsize(source.source) if os.path.isfile(source.source) else 0)
        for recording in _recordings(cut)
        for source in recording.sources
    ]
    text = json.dumps([_told(cut.to_dict()), hashes, start_s, end_s], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _told(content: Any) -> Any:
    """A manifest without names, which lhotse makes anew, supervisions, and sound that it holds itself."""
    if isinstance(content, dict):
        left_out = ("id", "supervisions", "features", "custom", "source", "shard_origin", "shar_epoch")
        return {key: _told(value) for key, value in content.items() if key not in left_out}
    return [_told(each) for each in content] if isinstance(content, list | tuple) else content
