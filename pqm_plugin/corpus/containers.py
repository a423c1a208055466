"""Sound out of containers that libsndfile does not know, such as m4a and webm; the only importer of PyAV (FFmpeg)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

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
        self.streams = (
            f"has {n_streams} audio streams: the first one is heard, `ffmpeg -map 0:a:1` takes out the second"
        )
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
