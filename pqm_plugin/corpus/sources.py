"""Audio that is open, by who decodes it: libsndfile, FFmpeg, or one after the other where recordings were joined."""

import functools
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, BinaryIO, Protocol

import numpy as np
import soundfile

from pqm_plugin.corpus.containers import DamagedError, NotReadableError, container
from pqm_plugin.corpus.headers import Ending
from pqm_plugin.corpus.resampling import Samples, Scale, at_one_rate, regrouped, resample, resampled, with_channels
from pqm_plugin.errors import PqmError

Key = tuple[str, int, int]
"""Path, size and time of change of a file, by which what was found out about it is kept."""

PACKED = "packed by shorten: `sph2pipe -f wav` unpacks it"
# libsndfile gives the largest integer when a FLAC stream does not say how long it is.
_UNKNOWN_LENGTH = 2**62
_BLOCK = 1 << 20
_UNCERTAIN_S = 0.1


class EmptyError(ValueError):
    """There are no samples."""


class EndlessError(ValueError):
    """libsndfile cannot tell how many samples there are."""


class Audio(Protocol):
    """Audio that is open: `frames` samples of `channels` at `samplerate` Hz; `remarks` tell what is odd about it.

    `is_counted` where `frames` is known without decoding; `is_plain` where any reader of the format gives the same.
    """

    samplerate: int
    channels: int
    is_plain: bool
    is_counted: bool
    remarks: list[str]

    @property
    def frames(self) -> int: ...
    def read(self, start: int, stop: int) -> Samples:
        """Samples `(stop - start, channels)`."""

    def blocks(self, n_samples: int) -> Iterator[Samples]:
        """All samples, at most `n_samples` at once."""


class Known:
    """A file, or a part of one, that libsndfile reads."""

    def __init__(self, file: soundfile.SoundFile, found: Ending, key: Key | None, n_samples: int = 0) -> None:
        """Take `n_samples`, where the caller has counted them, for the header's number."""
        self._file = file
        self.is_counted = True
        self.samplerate, self.channels, self.frames = file.samplerate, file.channels, n_samples or file.frames
        self.remarks = [found.remark] if found.remark else []
        self._scale = Scale(1.0)
        if not self.frames:
            raise EmptyError
        if self.frames >= _UNKNOWN_LENGTH:
            raise EndlessError
        if file.subtype in ("FLOAT", "DOUBLE"):
            self._scale = _scale_of(key) if key and not found.patch else self._measured()
            self.remarks += filter(None, [self._scale.applied(np.zeros(0, np.float32))[1]])
        self.is_plain = not self.remarks

    def _measured(self) -> Scale:
        return Scale.of(self._file.blocks(_BLOCK, dtype="float32", always_2d=True))

    def read(self, start: int, stop: int) -> Samples:
        self._file.seek(start)
        try:
            samples = self._file.read(stop - start, dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            raise DamagedError(f"decoding its {self.frames} samples stops: {str(error).rstrip(' .:')}") from None
        if len(samples) < stop - start:
            raise DamagedError(f"the header promises {self.frames} samples, {start + len(samples)} are there")
        return self._scale.applied(samples)[0]

    def blocks(self, n_samples: int) -> Iterator[Samples]:
        for first in range(0, self.frames, n_samples):
            yield self.read(first, min(first + n_samples, self.frames))


@functools.lru_cache(maxsize=4096)
def _scale_of(key: Key) -> Scale:
    with soundfile.SoundFile(os.fsencode(key[0])) as file:
        return Scale.of(file.blocks(_BLOCK, dtype="float32", always_2d=True))


class Foreign:
    """A file, or a part of one, that libsndfile does not know and FFmpeg does.

    Its blocks come as they are decoded. Its length is known when it was decoded to the end; it then lies in a temporary
    file, of which one is kept, so that segments of a talk do not decode it again.
    """

    is_plain = is_counted = False

    def __init__(
        self,
        raw: BinaryIO,
        key: Key | None,
        refused: str,
        stack: ExitStack,
        n_promised: int = 0,
        known_as: str = "",
        remark: str = "",
    ) -> None:
        try:
            self._container = stack.enter_context(container(raw, known_as))
        except NotReadableError as error:
            raise NotReadableError(f"{refused}; FFmpeg: {error}") from None
        self._key, self._n_promised = key, n_promised
        self.samplerate, self.channels = self._container.rate, self._container.n_channels
        self.remarks = [said for said in (remark, self._container.streams) if said]
        self._decoded: Samples | None = None

    @property
    def frames(self) -> int:
        return len(self._all())

    def read(self, start: int, stop: int) -> Samples:
        return np.array(self._all()[start:stop])

    def _all(self) -> Samples:
        if self._decoded is None:
            if self._key is not None and _KEPT.get("key") == self._key:
                self._decoded, self.remarks = _KEPT["decoded"], _KEPT["remarks"]
            else:
                self._decoded = self._spooled()
                if self._key is not None:
                    _KEPT.update(key=self._key, decoded=self._decoded, remarks=self.remarks)
        return self._decoded

    def _spooled(self) -> Samples:
        try:
            with tempfile.TemporaryFile() as file:
                for samples in self.blocks(_BLOCK):
                    file.write(samples.tobytes())
                file.flush()
                size = file.tell() // (4 * self.channels)
                return np.memmap(file, np.float32, "r", shape=(size, self.channels))
        except OSError as error:
            raise PqmError(f"no room to decode a recording into {tempfile.gettempdir()}: {error}: set TMPDIR") from None

    def blocks(self, n_samples: int) -> Iterator[Samples]:
        if self._decoded is not None:
            yield from (self._decoded[at : at + n_samples] for at in range(0, len(self._decoded), n_samples))
            return
        pieces = at_one_rate(self._container.blocks(), self.samplerate, self.channels)
        n_found = 0
        for samples in regrouped(pieces, n_samples):
            n_found += len(samples)
            yield samples
        if not n_found and self._n_promised:
            raise NotReadableError(PACKED)
        if not n_found:
            raise EmptyError
        if n_found < self._n_promised - _UNCERTAIN_S * self.samplerate:
            raise DamagedError(f"the header promises {self._n_promised} samples, {n_found} are there")
        if self._container.remark:
            self.remarks.append(self._container.remark)


_KEPT: dict[str, Any] = {}


class Joined:
    """Several recordings in one file, each after the one before, at the first one's rate and channels."""

    is_plain = False

    def __init__(self, parts: Sequence[Audio]) -> None:
        self._parts = parts
        self.is_counted = all(part.is_counted for part in parts)
        self.samplerate, self.channels = parts[0].samplerate, parts[0].channels
        self.remarks = [f"is {len(parts)} recordings joined: all are heard, one after the other"]
        self.remarks += [remark for part in parts for remark in part.remarks]

    @property
    def frames(self) -> int:
        return sum(self._lengths())

    def _lengths(self) -> list[int]:
        return [-(-part.frames * self.samplerate // part.samplerate) for part in self._parts]

    def read(self, start: int, stop: int) -> Samples:
        found, at = [], 0
        for part, length in zip(self._parts, self._lengths(), strict=True):
            first, last = max(start - at, 0), min(stop - at, length)
            at += length
            if first >= last:
                continue
            if part.samplerate == self.samplerate:
                samples = part.read(first, last)
            else:
                samples = resample(part.read(0, part.frames), part.samplerate, self.samplerate)[first:last]
            found.append(with_channels(samples, self.channels))
        return found[0] if len(found) == 1 else np.concatenate(found)

    def blocks(self, n_samples: int) -> Iterator[Samples]:
        for part in self._parts:
            for samples in resampled(part.blocks(n_samples), part.samplerate, self.samplerate):
                yield with_channels(samples, self.channels)
