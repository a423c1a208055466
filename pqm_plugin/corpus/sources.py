"""Decode an open audio file with libsndfile or FFmpeg (PyAV is imported only here), or joined parts in turn."""

import functools
import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt
import soundfile

from pqm_plugin.corpus.headers import Ending
from pqm_plugin.corpus.samples import Samples, Scale, at_one_rate, regrouped, resample, resampled, with_channels
from pqm_plugin.errors import PqmError

# What holds sound and nothing but sound or pictures: no playlist and no other format that opens further files or
# addresses, and none whose beginning may be any bytes at all. A file is known by its content, whatever its name.
_FORMATS = "mov,matroska,aac,amr,asf,avi,flv,ogg,wav,caf,mpegts,nistsphere,shn,ape,wv,tta,ac3,eac3"
# So much less sound than the header promises is how encoders count; in seconds.
_UNCERTAIN_S = 0.1
# Demuxers whose lengths are those of a header, not guesses from a bit rate.
_PROMISING = {"mov", "matroska", "asf", "avi", "wav", "caf"}


class NotReadableError(ValueError):
    """No sound, or none that can be decoded here."""


class DamagedError(ValueError):
    """The sound ends or breaks where more was promised."""


class Container:
    """The first audio stream of an open file: `rate` in Hz, `n_channels`, and its blocks."""

    def __init__(self, container: Any, stream: Any) -> None:
        """Stand before the first packet."""
        self._container, self._stream = container, stream
        self.rate = int(stream.rate or 0)
        self.n_channels = int(stream.channels or 0)
        n_streams = len(container.streams.audio)
        self.streams = f"has {n_streams} audio streams: the first one is read, `ffmpeg -map 0:a:1` takes out the second"
        self.streams = self.streams if n_streams > 1 else ""
        self.remark = ""
        self.is_float = stream.codec_context.name.startswith("pcm_f")

    def blocks(self) -> Iterator[tuple[npt.NDArray[np.float32], int]]:
        """Yield samples `(n_samples, n_channels)` nominally in [-1, 1], and the rate of each block in Hz.

        Raises:
            DamagedError: if a packet cannot be decoded, or packets that the header promises are not there.
        """
        import av

        end_s, n_packets, last = 0.0, 0, False
        for packet in self._packets():
            if last and packet.size:
                raise DamagedError(f"decoding stops at {end_s:.2f} s")
            try:
                frames = packet.decode()
            except av.EOFError:
                break
            except (av.FFmpegError, ValueError):
                # The last packet of a stream without a length may be cut: nothing else can say so.
                last = True
                continue
            if packet.pts is not None and packet.size:
                end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            n_packets += bool(packet.size)
            for frame in frames:
                yield as_samples(frame), frame.sample_rate
        missing_s = self._missing_s(end_s, n_packets)
        if missing_s > _UNCERTAIN_S:
            raise DamagedError(f"{missing_s:.2f} s that the header promises are not there")
        if last:
            self.remark = f"breaks off within a packet, {end_s:.2f} s from its start: what is whole is read"

    def _packets(self) -> Iterator[Any]:
        import av

        try:
            yield from self._container.demux(self._stream)
        except av.BlockingIOError:
            # A transport stream that ends in padding waits for more.
            return
        except (av.FFmpegError, ValueError) as error:
            raise DamagedError(f"the container breaks off: {_said(error)}") from None

    def _missing_s(self, end_s: float, n_packets: int) -> float:
        if not set(self._container.format.name.split(",")) & _PROMISING:
            return 0.0
        n_promised = self._stream.frames
        if n_promised:
            return max(0, n_promised - n_packets) / n_promised * self._promised_s()
        return max(0.0, self._promised_s() - end_s)

    def _promised_s(self) -> float:
        if self._stream.duration:
            return float(self._stream.duration * self._stream.time_base)
        return (self._container.duration or 0) / 1_000_000


@contextmanager
def container(raw: BinaryIO, known_as: str = "") -> Iterator[Container]:
    """Open the first audio stream of a file in binary mode; nothing but this file is read.

    Args:
        known_as: the demuxer, where the caller knows the kind of file; by default one of a list is found.

    Raises:
        NotReadableError: if it is of no kind that is decoded here, or has no audio.
    """
    import av

    raw.seek(0)
    try:
        # No protocol: what a container names beside itself is not opened.
        options = {"format_whitelist": known_as or _FORMATS, "protocol_whitelist": "none"}
        opened = av.open(raw, format=known_as or None, options=options)
    except (av.FFmpegError, ValueError, UnicodeError) as error:
        raise NotReadableError(_said(error)) from None
    with opened:
        if not opened.streams.audio:
            raise NotReadableError("it has no audio stream")
        stream = opened.streams.audio[0]
        if stream.codec_context is None:
            raise NotReadableError("its codec is not known")
        stream.codec_context.thread_count = 1
        found = Container(opened, stream)
        if not (found.rate and found.n_channels):
            raise NotReadableError("its audio stream says no rate")
        yield found


def as_samples(frame: Any) -> npt.NDArray[np.float32]:
    """The samples `(n_samples, n_channels)` of an audio frame; integers are scaled by their type's range."""
    n_channels = len(frame.layout.channels)
    values = frame.to_ndarray()
    values = values.T if frame.format.is_planar else values.reshape(-1, n_channels)
    if values.dtype == np.uint8:
        return ((values.astype(np.float32) - 128) / 128).astype(np.float32)
    if values.dtype.kind == "i":
        return (values.astype(np.float64) / -float(np.iinfo(values.dtype).min)).astype(np.float32)
    return np.ascontiguousarray(values, dtype=np.float32)


def _said(error: Exception) -> str:
    return " ".join(str(getattr(error, "strerror", "") or error).split())[:200]


Key = tuple[str, int, int]
"""Path, size and time of change of a file, by which what was found out about it is kept."""

PACKED = "packed by shorten: `sph2pipe -f wav` unpacks it"
# libsndfile gives the largest integer when a FLAC stream does not say how long it is.
_UNKNOWN_LENGTH = 2**62
_BLOCK = 1 << 20


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
        self.remarks = [f"is {len(parts)} recordings joined: all are read, one after the other"]
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


_OPUS_BITS_PER_S = 20_000


def as_opus(samples: npt.NDArray[np.float32], rate: int) -> bytes:
    """Encode speech as a file of Ogg/Opus, about 2.5 kB a second; the same samples give the same bytes.

    Args:
        samples: `(n_samples,)` in [-1, 1], at a rate that Opus knows.
        rate: 8000, 12000, 16000, 24000 or 48000 Hz.
    """
    import av

    file = io.BytesIO()
    whole = np.clip(np.rint(samples * 32767), -32768, 32767).astype(np.int16)
    # Without these the stream has a random number.
    exact = {"fflags": "+bitexact", "serial_offset": "1"}
    with av.open(file, "w", format="ogg", options=exact) as container:
        stream: Any = container.add_stream("libopus", rate=rate, options={"flags": "+bitexact"})
        stream.bit_rate, stream.layout = _OPUS_BITS_PER_S, "mono"
        frame = av.AudioFrame.from_ndarray(whole[None, :], format="s16", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return file.getvalue()
