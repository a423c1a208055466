"""Sound from wherever a user has it: a path, an open file, or an array."""

import io
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pqm_plugin.corpus.audio import Samples, decode, is_silent, resample
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError

Sound = str | Path | BinaryIO | np.ndarray
"""A path, a file opened in binary mode, or samples `(n_samples,)` or `(n_samples, n_channels)`."""

FOREIGN = {".m4a", ".mp4", ".aac", ".wma", ".webm", ".mkv", ".mov", ".amr", ".3gp", ".avi", ".mka", ".m4b"}
_MOST_CHANNELS = 64
# A header may say anything, and a low rate would make a large array of a small file.
_RATES = (2000, 768000)

__all__ = ["Sound", "is_silent", "load_sound", "sound_name"]


def load_sound(sound: Sound, sample_rate: int, given_rate: int | None = None) -> Samples:
    """Return samples `(n_samples,)`, float32 in [-1, 1], at `sample_rate` in Hz, channels averaged.

    Args:
        sound: FLAC, WAV, Ogg, MP3 and whatever else libsndfile reads; an array of floats in [-1, 1] or of integers,
            which are scaled by their type's range.
        given_rate: of an array, in Hz; by default `sample_rate`. A file says its own.

    Raises:
        PqmError: if the sound is missing, empty, damaged, of a format that cannot be read, or not finite.
    """
    if isinstance(sound, str | Path):
        samples, rate = _from_path(Path(sound).expanduser())
    elif hasattr(sound, "read"):
        data = sound.read()
        if not isinstance(data, bytes):
            raise PqmError(f"{sound_name(sound)} gives text, not bytes: open it with mode 'rb'")
        samples, rate = decode(io.BytesIO(data), Utterance("", "", "", sound_name(sound)))
    else:
        samples, rate = _from_array(sound), given_rate or sample_rate
    if not _RATES[0] <= rate <= _RATES[1]:
        raise PqmError(f"{sound_name(sound)}: a sample rate of {rate} Hz: speech has {_RATES[0]} to {_RATES[1]} Hz")
    if not np.isfinite(samples).all():
        raise PqmError(f"{sound_name(sound)} holds values that are not numbers: write it again as 16-bit audio")
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)
    return np.ascontiguousarray(resample(mono, rate, sample_rate))


def sound_name(sound: Any) -> str:
    """What to call a sound in a message: its path or name, or `audio`."""
    return str(sound) if isinstance(sound, str | Path) else str(getattr(sound, "name", "audio"))


def _from_path(path: Path) -> tuple[Samples, int]:
    if path.suffix.lower() in FOREIGN:
        raise PqmError(
            f"{path}: {path.suffix} cannot be read here; convert it first: `ffmpeg -i {path.name} {path.stem}.wav`"
        )
    if not path.is_file():
        raise PqmError(f"{path} is {'a folder' if path.is_dir() else 'missing'}: give an audio file")
    if not path.stat().st_size:
        raise PqmError(f"{path} is empty (0 bytes): record or copy it again")
    return decode(path, Utterance("", "", "", str(path)))


def _from_array(values: Any) -> Samples:
    array = np.asarray(values)
    if array.dtype.kind not in "fiu" or array.ndim not in (1, 2) or not array.size:
        raise PqmError(
            f"audio of type {array.dtype} and shape {array.shape}: give numbers of shape (n_samples,) or "
            "(n_samples, n_channels)"
        )
    if array.ndim == 2 and array.shape[1] > _MOST_CHANNELS:
        raise PqmError(f"audio of shape {array.shape} has {array.shape[1]} channels: did you mean its transpose?")
    if array.dtype.kind in "iu":
        info = np.iinfo(array.dtype)
        middle = (info.max + 1) // 2 if array.dtype.kind == "u" else 0
        array = (array.astype(np.float64) - middle) / (info.max + 1 - middle)
    return array.astype(np.float32).reshape(len(array), -1)
