"""Sound while it is spoken: blocks from a microphone or a pipe, or from a recording in their place."""

import contextlib
import logging
import os
import queue
import sys
import threading
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pqm_plugin.corpus.audio import Samples
from pqm_plugin.corpus.recording import STDIN, stream_sound
from pqm_plugin.corpus.samples import resampled
from pqm_plugin.errors import PqmError

BLOCK_S = 0.1
"""Seconds of a block: what comes is looked at so often."""

# What is spoken while words are searched waits; a model that is so far behind will not catch up.
_MOST_WAITING_S = 120.0
_LOOK_S = 0.1
_NOTHING: Samples = np.zeros(0, np.float32)
_log = logging.getLogger(__name__)


class Feed:
    """Blocks of samples (n,) that another thread puts in, until it ends; iterate over them in one thread.

    Where nothing came for a tenth of a second, a block without samples is yielded, so that the reader can look around.
    """

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self._blocks: queue.SimpleQueue[Samples | PqmError | None] = queue.SimpleQueue()
        self._put = self._taken = 0

    @property
    def waiting_s(self) -> float:
        """Seconds of sound that came and were not read yet."""
        return (self._put - self._taken) / self._rate

    def put(self, block: Samples) -> None:
        """Add what came.

        Raises:
            PqmError: if too much waits; the reader gets it as well.
        """
        if self.waiting_s > _MOST_WAITING_S:
            error = PqmError(
                f"the words are {_MOST_WAITING_S:g} s behind the speech: this machine is too slow for the model, take "
                "a smaller one, or record and use `pqm transcribe`"
            )
            self.end(error)
            raise error
        self._put += len(block)
        self._blocks.put(block)

    def end(self, error: PqmError | None = None) -> None:
        """Nothing more will come, because of an error or in good order."""
        self._blocks.put(error)

    def __iter__(self) -> Iterator[Samples]:
        while True:
            try:
                block = self._blocks.get(timeout=_LOOK_S)
            except queue.Empty:
                yield _NOTHING
                continue
            if block is None:
                return
            if isinstance(block, PqmError):
                raise block
            self._taken += len(block)
            yield block


@contextlib.contextmanager
def microphone(sample_rate: int, device: str | int | None = None) -> Iterator[Feed]:
    """What a microphone hears, float32 at `sample_rate` in Hz, within the context.

    Args:
        device: number or part of the name of one; default: the system's.

    Raises:
        PqmError: if the package or its library is missing, or there is no such microphone.
    """
    sounddevice = _sounddevice()
    feed, name = Feed(sample_rate), "the microphone" if device is None else f"the microphone {device!r}"
    raw = Feed(sample_rate)
    try:
        rate = _rate(sounddevice, device, sample_rate)
        raw = feed if rate == sample_rate else Feed(rate)

        def heard(block: Any, _n: int, _time: Any, status: Any) -> None:
            if status:
                _log.warning("%s: %s: some sound is lost", name, status)
            with contextlib.suppress(PqmError):
                raw.put(block[:, 0].copy())

        stream = sounddevice.InputStream(
            samplerate=rate,
            blocksize=round(BLOCK_S * rate),
            device=device,
            channels=1,
            dtype="float32",
            callback=heard,
            finished_callback=lambda: raw.end(PqmError(f"{name} has stopped: see whether it is still there")),
        )
        with stream:
            if raw is not feed:
                _hand_on(resampled(raw, rate, sample_rate), feed)
            yield feed
    except (sounddevice.PortAudioError, ValueError) as error:
        why = " ".join(str(error).split())
        raise PqmError(f"{name} cannot be heard ({why}): `python -m sounddevice` lists what there is") from error


def _sounddevice() -> Any:
    try:
        import sounddevice
    except ImportError as error:
        raise PqmError(f"the microphone needs a package ({error}): pip install 'pqm_plugin[listen]'") from error
    except OSError as error:
        raise PqmError(
            f"the microphone needs a library ({error}): install PortAudio, such as `apt install libportaudio2`"
        ) from error
    return sounddevice


def _rate(sounddevice: Any, device: str | int | None, wanted: int) -> int:
    """The rate in Hz to record at: the wanted one where the device has it, else its own."""
    try:
        sounddevice.check_input_settings(device=device, channels=1, samplerate=wanted, dtype="float32")
    except sounddevice.PortAudioError:
        return round(sounddevice.query_devices(device, "input")["default_samplerate"])
    return wanted


def _hand_on(blocks: Iterator[Samples], feed: Feed) -> None:
    """Put blocks into a feed from a thread of its own; it ends with them, or with us."""

    def work() -> None:
        error = None
        try:
            for block in blocks:
                feed.put(block)
        except PqmError as found:
            error = found
        feed.end(error)

    threading.Thread(target=work, name="pqm sound", daemon=True).start()


def from_file(sound: str | Path, sample_rate: int) -> Iterator[Samples]:
    """A recording in blocks, in place of a microphone, as fast as they are read; see `recording.stream_sound`."""
    size = round(BLOCK_S * sample_rate)
    for samples in stream_sound(sound, sample_rate):
        yield from (samples[at : at + size] for at in range(0, len(samples), size))


@contextlib.contextmanager
def from_pipe(sample_rate: int) -> Iterator[Feed]:
    """What standard input gives while it comes: a WAV of whole numbers, such as `arecord -t wav` writes.

    Raises:
        PqmError: if it is none, or nothing is piped in.
    """
    if sys.stdin.isatty():
        raise PqmError("- is standard input, and nothing is piped into it: give a file, or `… | pqm listen MODEL -i -`")
    try:
        # `read` is all of a file that it needs; it is not closed, for a thread may still wait in it at the end.
        file = wave.open(_Pipe(sys.stdin.fileno()), "rb")  # type: ignore[call-overload]
    except (wave.Error, EOFError) as error:
        why = str(error) or "it ends within its header"
        raise PqmError(
            f"{STDIN} is no WAV of whole numbers ({why}): pipe in 16-bit WAV, such as `arecord -t wav` writes"
        ) from error
    feed = Feed(sample_rate)
    _hand_on(resampled(_waves(file), file.getframerate(), sample_rate), feed)
    yield feed


def _waves(file: wave.Wave_read) -> Iterator[Samples]:
    size = max(1, round(BLOCK_S * file.getframerate()))
    while data := file.readframes(size):
        yield _floats(data, file.getsampwidth(), file.getnchannels())


def _floats(data: bytes, width: int, n_channels: int) -> Samples:
    """Mean of the channels, float32 (n_frames,) in [-1, 1], of little-endian integers; single bytes are unsigned."""
    whole = len(data) // (width * n_channels) * width * n_channels
    values = np.frombuffer(data[:whole], np.uint8).reshape(-1, width)
    if width == 1:
        samples = values[:, 0].astype(np.float32) / 128 - 1
    else:
        wide = np.zeros((len(values), 4), np.uint8)
        wide[:, 4 - width :] = values
        samples = wide.view("<i4")[:, 0].astype(np.float32) / 2**31
    return samples.reshape(-1, n_channels).mean(axis=1, dtype=np.float32)


class _Pipe:
    """As much of a file as `wave` needs, read without a lock, for Python ends while a thread waits here."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, n: int) -> bytes:
        """As many bytes as there are until the end, `n` at most."""
        found = bytearray()
        while len(found) < n and (data := os.read(self._descriptor, n - len(found))):
            found += data
        return bytes(found)
