"""Audio of a user: a path, an open file, or an array."""

import io
import logging
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pqm_plugin.corpus.audio import Samples, clipped_share, decode_blocks, is_silent
from pqm_plugin.corpus.names import on_disk
from pqm_plugin.corpus.samples import Channels, Scale, mono, resampled
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError

Sound = str | Path | BinaryIO | np.ndarray
"""A path, a file opened in binary mode, or samples `(n_samples,)` or `(n_samples, n_channels)`."""

Warn = Callable[[str], None]
"""Is told in a sentence what a user should know of a recording."""

STDIN = "-"
"""The path that stands for standard input."""

# What comes through a pipe is kept in a temporary file; an hour of stereo at 48 kHz has 1.4 GB as float.
_MOST_PIPED_BYTES = 8 * 2**30
_MOST_CHANNELS = 64
# A header may say anything, and a low rate would make a large array of a small file.
_RATES = (2000, 768000)
# 32-bit integers that were not scaled are the largest that any program writes; squared, they are still finite.
_LARGEST = 2.0**31
_BLOCK_S = 60.0
# A single plosive at full scale harms nothing.
_CLIPPED_SHARE = 1e-3

_log = logging.getLogger(__name__)

__all__ = ["Sound", "is_silent", "load_sound", "sound_name", "stream_sound"]


def load_sound(
    sound: Sound,
    sample_rate: int,
    given_rate: int | None = None,
    channel: int | None = None,
    warn: Warn | None = None,
) -> Samples:
    """Return samples `(n_samples,)`, float32 in [-1, 1], at `sample_rate` in Hz.

    Args:
        sound: FLAC, WAV, Ogg, MP3, m4a, webm and whatever else libsndfile or FFmpeg decodes, by its content; a pipe, or
            `-` for standard input; an array of floats in [-1, 1] or of integers, which are scaled by their type's
            range. Floats on the scale of integers are scaled, too, with a warning.
        given_rate: of an array, in Hz; by default `sample_rate`. A file says its own.
        channel: the one that is used, counted from 0; None averages all.
        warn: is told that the channels seem to be two people's, or cancel each other out; default: the log.

    Raises:
        PqmError: if the sound is missing, empty, damaged, of a format that cannot be read, or not finite, or
            has no such channel.
    """
    blocks = list(stream_sound(sound, sample_rate, given_rate, channel, warn))
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def stream_sound(
    sound: Sound,
    sample_rate: int,
    given_rate: int | None = None,
    channel: int | None = None,
    warn: Warn | None = None,
) -> Iterator[Samples]:
    """Yield the samples of `load_sound` in blocks of about a minute, so that an hour takes no more memory.

    Clipped sound is said, once, and so are channels that should not be averaged.

    Raises:
        PqmError: as `load_sound` does; what was yielded before stands.
    """
    name = sound_name(sound)
    blocks = _blocks(sound, given_rate or sample_rate)
    first, rate = next(blocks)
    if not _RATES[0] <= rate <= _RATES[1]:
        raise PqmError(f"{name}: a sample rate of {rate} Hz: speech has {_RATES[0]} to {_RATES[1]} Hz")
    read = chain([(first, rate)], blocks)
    heard = _say_channels(read, name, warn or _log.warning) if channel is None else read
    chosen = (_mono(samples, name, channel) for samples, _ in heard)
    yield from resampled(_say_clipped(chosen, name), rate, sample_rate)


def _mono(samples: Samples, name: str, channel: int | None) -> Samples:
    if not np.abs(samples).max(initial=0.0) <= _LARGEST:
        raise PqmError(f"{name} holds values that are not numbers, or not of audio: write it again as 16-bit audio")
    return np.ascontiguousarray(mono(samples, channel, name))


def _say_channels(blocks: Iterable[tuple[Samples, int]], name: str, warn: Warn) -> Iterator[tuple[Samples, int]]:
    """Hand blocks on and say, once, that their average is not useful."""
    channels, said = Channels(), False
    for samples, rate in blocks:
        if samples.shape[1] > 1 and not said:
            channels.add(samples, rate)
            trouble = channels.trouble()
            if trouble:
                said = True
                warn(f"{name}: {trouble}: choose one, such as --channel 0 (in Python channel=0), or split the file")
        yield samples, rate


def _say_clipped(blocks: Iterable[Samples], name: str) -> Iterator[Samples]:
    said = False
    for samples in blocks:
        share = 0.0 if said else clipped_share(samples)
        if share > _CLIPPED_SHARE:
            said = True
            _log.warning(
                "%s is clipped (%.1f %% of a stretch): words may be lost, record with less gain", name, 100 * share
            )
        yield samples


def sound_name(sound: Any) -> str:
    """What to call a sound in a message: its path or name, or `audio`."""
    return str(sound) if isinstance(sound, str | Path) else str(getattr(sound, "name", "audio"))


def _blocks(sound: Sound, given_rate: int) -> Iterator[tuple[Samples, int]]:
    """Samples `(n_samples, n_channels)` and their rate in Hz, block by block."""
    if isinstance(sound, str | Path):
        path = on_disk(Path(sound).expanduser())
        name = Utterance("", "", "", str(path))
        if str(sound) == STDIN or (path.exists() and not path.is_file() and not path.is_dir()):
            with _piped(path) as file:
                yield from decode_blocks(file, name, _BLOCK_S)
            return
        _check_path(path)
        yield from decode_blocks(path, name, _BLOCK_S)
    elif hasattr(sound, "read"):
        data = sound.read()
        if not isinstance(data, bytes):
            raise PqmError(f"{sound_name(sound)} gives text, not bytes: open it with mode 'rb'")
        yield from decode_blocks(io.BytesIO(data), Utterance("", "", "", sound_name(sound)), _BLOCK_S)
    else:
        samples, said = _from_array(sound)
        if said:
            _log.warning("audio %s", said)
        yield samples, given_rate


@contextmanager
def _piped(path: Path) -> Iterator[BinaryIO]:
    """What comes through a pipe or standard input, in a temporary file, for decoders go back and forth."""
    is_stdin = str(path) == STDIN
    if is_stdin and sys.stdin.isatty():
        raise PqmError(
            "- is standard input, and nothing is piped into it: give a file, or `… | pqm transcribe MODEL -`"
        )
    with nullcontext(sys.stdin.buffer) if is_stdin else path.open("rb") as pipe, tempfile.TemporaryFile() as file:
        size = 0
        while data := pipe.read(1 << 20):
            size += len(data)
            if size > _MOST_PIPED_BYTES:
                raise PqmError(f"{path} gives more than {_MOST_PIPED_BYTES} bytes: save it to a file and give that")
            file.write(data)
        if not size:
            raise PqmError(f"{path} is empty (0 bytes): see what is piped into it")
        file.seek(0)
        yield file


def _check_path(path: Path) -> None:
    if not path.is_file():
        raise PqmError(f"{path} is {'a folder' if path.is_dir() else 'missing'}: give an audio file")
    if not path.stat().st_size:
        raise PqmError(f"{path} is empty (0 bytes): record or copy it again")


def _from_array(values: Any) -> tuple[Samples, str]:
    """Samples `(n_samples, n_channels)`, and what is to be said of their scale."""
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise PqmError(f"audio of type {type(values).__name__} is not an array ({error}): give samples") from None
    if array.dtype.kind not in "fiu" or array.ndim not in (1, 2) or not array.size:
        raise PqmError(
            f"audio of type {array.dtype} and shape {array.shape}: give numbers of shape (n_samples,) or "
            "(n_samples, n_channels)"
        )
    if array.ndim == 2 and array.shape[1] > _MOST_CHANNELS:
        raise PqmError(f"audio of shape {array.shape} has {array.shape[1]} channels: did you mean its transpose?")
    if array.dtype.kind in "iu":
        info = np.iinfo(array.dtype)
        # Nobody records at a 32768th of the range: these are the 16 bits of a file in a wider type, such as a list.
        if (
            array.dtype.kind == "i"
            and array.dtype.itemsize > 2
            and 0 < max(-int(array.min()), int(array.max())) <= 2**15
        ):
            said = f"holds 16-bit integers as {array.dtype}: they are divided by 32768"
            return (array / 2.0**15).astype(np.float32).reshape(len(array), -1), said
        middle = (info.max + 1) // 2 if array.dtype.kind == "u" else 0
        array = (array.astype(np.float64) - middle) / (info.max + 1 - middle)
        return array.astype(np.float32).reshape(len(array), -1), ""
    array = array.reshape(len(array), -1)
    samples, said = Scale.of([array]).applied(array)
    return samples.astype(np.float32), said
