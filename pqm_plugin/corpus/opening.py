"""Open an audio file by its content: whole or joined, with libsndfile or FFmpeg, with errors and warnings."""

import functools
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, cast

import soundfile

from pqm_plugin.corpus.headers import UNKNOWN_END, Ending, Window, ending, mpeg_samples, part_starts
from pqm_plugin.corpus.sources import (
    PACKED,
    Audio,
    DamagedError,
    EmptyError,
    EndlessError,
    Foreign,
    Joined,
    Key,
    Known,
    NotReadableError,
)
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError

AGAIN = "copy or fetch it again, or remove the utterance from the set"
# Two frames, with which encoders and decoders begin.
_MPEG_SLACK = 2 * 1152
_DEMUXERS = {"WAV": "wav", "WAVEX": "wav", "W64": "w64", "AIFF": "aiff", "AU": "au"}

_log = logging.getLogger(__name__)


@contextmanager
def opened(source: Path | BinaryIO, utterance: Utterance) -> Iterator[Audio]:
    """Open audio that has samples; what is wrong with it becomes a `PqmError`, what is odd a warning.

    Raises:
        PqmError: if it is not audio, holds no samples, or much of it is missing.
    """
    with ExitStack() as stack:
        raw = stack.enter_context(source.open("rb") if isinstance(source, Path) else source)
        try:
            audio = _opened(source, raw, stack)
            yield audio
        except EmptyError:
            raise PqmError(f"{named(utterance)} holds no samples: {AGAIN}") from None
        except EndlessError:
            how = "decode it to WAV with `flac -d` or sox and encode that"
            raise PqmError(f"{named(utterance)} does not say how long it is: {how}") from None
        except NotReadableError as error:
            raise PqmError(f"{named(utterance)} is not audio, or is cut off in its header ({error}): {AGAIN}") from None
        except (DamagedError, soundfile.SoundFileError) as error:
            raise cut_off(utterance, str(error).rstrip(" .:")) from None
        say(utterance, *audio.remarks)


def _opened(source: Path | BinaryIO, raw: BinaryIO, stack: ExitStack) -> Audio:
    key = _key(source) if isinstance(source, Path) else None
    starts = _starts(key) if key else tuple(part_starts(raw))
    raw.seek(0, 2)
    ends = [*starts, raw.tell()]
    if len(starts) == 1:
        return _part(raw, 0, ends[1], source if isinstance(source, Path) else None, stack)
    return Joined([_part(raw, start, stop, None, stack) for start, stop in pairwise(ends)])


def _key(path: Path) -> Key:
    status = path.stat()
    return str(path), status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=4096)  # the segments of one talk are each opened
def _starts(key: Key) -> tuple[int, ...]:
    with open(key[0], "rb") as raw:
        return tuple(part_starts(raw))


def _window(stack: ExitStack, raw: BinaryIO, start: int, stop: int, patch: Any = None) -> BinaryIO:
    return cast(BinaryIO, stack.enter_context(Window(raw, start, stop, patch)))


def _part(raw: BinaryIO, start: int, stop: int, path: Path | None, stack: ExitStack) -> Audio:
    """Open the bytes from `start` to `stop`, which are the whole of `path` if one is given."""
    found = ending(_window(stack, raw, start, stop))
    if found.is_lost:
        raise DamagedError(f"at least {found.missing} bytes that it promises are not there")
    window = _window(stack, raw, start, stop, found.patch)
    # A path of its own, not `raw`: decoding through Python's file object is slower.
    source = os.fsencode(path) if path is not None and found.patch is None else window
    try:
        file = stack.enter_context(soundfile.SoundFile(source))
    except soundfile.SoundFileError as error:
        refused = str(error).rstrip(" .:").rpartition(": ")[2]
        if found.n_packed:
            refused = PACKED
        return Foreign(window, _key(path) if path else None, refused, stack, found.n_packed)
    n_samples = mpeg_samples(window) if file.format == "MP3" else 0
    if known_as := _better_by_ffmpeg(file, found, n_samples):
        return Foreign(window, _key(path) if path else None, "", stack, 0, known_as, found.remark)
    if found.remark == UNKNOWN_END and not isinstance(getattr(raw, "name", None), str):
        # Who writes to a pipe cannot know the length: nothing is odd about that.
        found = Ending()
    return Known(file, found, _key(path) if path else None, min(n_samples, file.frames))


def _better_by_ffmpeg(file: soundfile.SoundFile, found: Ending, n_samples: int) -> str:
    """The demuxer for what libsndfile opens but does not read to its end, else nothing; `n_samples` as counted."""
    if file.format == "MP3":
        return "mp3" if n_samples and abs(n_samples - file.frames) > _MPEG_SLACK else ""
    if file.subtype.startswith("MPEG") or not file.seekable():  # MP3 within WAV; GSM of telephones
        return _DEMUXERS.get(file.format, "")
    if file.format == "OGG" and found.remark:
        try:
            file.seek(max(0, file.frames - 1))
            file.read(1)
        except soundfile.SoundFileError:
            return "ogg"
    return ""


def say(utterance: Utterance, *remarks: str) -> None:
    """Warn of what is odd about a recording, once for each."""
    for remark in filter(None, remarks):
        _say(f"{utterance.audio or 'audio'} {remark}")


@functools.cache
def _say(line: str) -> None:
    _log.warning(line)


def cut_off(utterance: Utterance, why: str) -> PqmError:
    """What to raise for audio of which a part is missing."""
    return PqmError(f"{named(utterance)} is cut off or damaged ({why}): {AGAIN}")


def named(utterance: Utterance) -> str:
    """What to call an utterance's audio in a message."""
    where = utterance.audio or "audio"
    return f"{where} (utterance {utterance.utterance})" if utterance.utterance else where
