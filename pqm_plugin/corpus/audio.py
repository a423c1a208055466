"""Samples of an utterance, from a file, a Kaldi archive or a command; the only importer of soundfile and kaldiio."""

import functools
import io
import logging
import math
import os
import re
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import kaldiio
import numpy as np
import numpy.typing as npt
import soundfile
from kaldiio.python_wave import Error as WaveError

from pqm_plugin.corpus.channels import check_channel, mono
from pqm_plugin.corpus.headers import missing_bytes
from pqm_plugin.corpus.names import on_disk
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError

Samples = npt.NDArray[np.float32]

_log = logging.getLogger(__name__)
_ARCHIVE = re.compile(r"(?P<path>.+):(?P<offset>\d+)")
# libsndfile gives the largest integer when a FLAC stream does not say how long it is.
_UNKNOWN_LENGTH = 2**62
# Kaldi's extract-segments allows an end this far behind the recording, and cuts it.
OVERSHOOT_S = 0.5
# Three steps of 16-bit audio: dither and dead microphones stay below, any speech above.
_SILENCE_PEAK = 1e-4
# A recorder that cuts waves off does so at full scale, or a step below; what is softer was loud on purpose.
_CLIPPED_PEAK = 0.98
_AGAIN = "copy or fetch it again, or remove the utterance from the set"


@dataclass(frozen=True)
class AudioInfo:
    """What is known of an utterance's audio; `is_silent` only when it was decoded."""

    sample_rate: int
    n_samples: int
    n_channels: int
    is_silent: bool | None = None

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.n_samples / self.sample_rate


def load_audio(utterance: Utterance, sample_rate: int) -> Samples:
    """Return the samples `(n_samples,)` of an utterance at `sample_rate`, nominally in [-1, 1].

    They are of its channel, or the average of all where it names none.

    Raises:
        PqmError: if the audio is missing, empty, cut off in the middle, damaged, not audio, or holds a value that is
            not a number; or if the segment is not inside the recording.
    """
    samples, rate = _read(utterance)
    chosen = mono(samples, utterance.channel, _named(utterance))
    return np.ascontiguousarray(resample(chosen, rate, sample_rate))


def probe(utterance: Utterance, decode: bool = False) -> AudioInfo:
    """Check an utterance's audio and return its length, by default from the header and the last sample alone.

    The quick look finds a file that is missing, empty, cut off or not audio, and costs a fraction of a millisecond;
    damage in the middle of a file shows only with `decode`. Archives and commands are decoded always.

    Raises:
        PqmError: as `load_audio` does.
    """
    if not decode and _kind(utterance.audio) == "file":
        with _opened(_existing(utterance), utterance) as file:
            start, stop = _bounds(utterance, file.frames, file.samplerate)
            check_channel(utterance.channel, file.channels, _named(utterance))
            file.seek(file.frames - 1)
            if len(file.read(1)) != 1:
                raise _cut_off(utterance, f"sample {file.frames - 1} that the header promises is not there")
            return AudioInfo(file.samplerate, stop - start, file.channels)
    samples, rate = _read(utterance)
    chosen = samples if utterance.channel is None else mono(samples, utterance.channel, _named(utterance))
    return AudioInfo(rate, len(samples), samples.shape[1], is_silent(chosen))


def blocks_of(utterance: Utterance, block_s: float = 60.0) -> Iterator[tuple[Samples, int]]:
    """Yield samples `(n_samples, n_channels)` of the recording that an utterance is from, each block with its rate.

    Raises:
        PqmError: as `load_audio` does; what was yielded before stands.
    """
    whole = replace(utterance, start_s=None, end_s=None, channel=None)
    if _kind(utterance.audio) == "file":
        yield from decode_blocks(_existing(whole), whole, block_s)
    else:
        yield _read(whole)


def duration_s(utterance: Utterance) -> float:
    """Return the length of an utterance in seconds, see `probe`."""
    return probe(utterance).duration_s


def is_silent(samples: Samples) -> bool:
    """Say whether nothing in `samples` reaches three steps of 16-bit audio."""
    return bool(np.abs(samples).max(initial=0.0) < _SILENCE_PEAK)


def clipped_share(samples: Samples) -> float:
    """The share of samples `(n_samples,)` that stand with their neighbours at the largest value there is, in [0, 1]."""
    sizes = np.abs(samples)
    at_most = sizes >= max(_CLIPPED_PEAK, float(sizes.max(initial=0.0)))
    return float((at_most[:-2] & at_most[1:-1] & at_most[2:]).sum() / max(1, len(samples)))


def _kind(audio: str) -> str:
    if audio.rstrip().endswith("|"):
        return "command"
    return "archive" if _ARCHIVE.fullmatch(audio) and not Path(audio).exists() else "file"


def _read(utterance: Utterance) -> tuple[Samples, int]:
    """Return the utterance's samples `(n_samples, n_channels)` and their rate in Hz."""
    kind = _kind(utterance.audio)
    if kind == "archive":
        samples, rate = _from_archive(utterance)
    else:
        source = io.BytesIO(_output(utterance.audio)) if kind == "command" else _existing(utterance)
        samples, rate = decode(source, utterance)
    if not np.isfinite(samples).all():
        raise PqmError(f"{_named(utterance)} holds values that are not numbers: write the file again as 16-bit audio")
    return samples, rate


def decode(source: Path | io.BytesIO, utterance: Utterance) -> tuple[Samples, int]:
    """Return samples `(n_samples, n_channels)` of a file or its bytes, and their rate in Hz; a segment if it is one.

    Raises:
        PqmError: as `load_audio` does, naming `utterance`.
    """
    with _opened(source, utterance) as file:
        start, stop = _bounds(utterance, file.frames, file.samplerate)
        file.seek(start)
        samples = file.read(stop - start, dtype="float32", always_2d=True)
        if len(samples) < stop - start:
            raise _cut_off(utterance, f"the header promises {file.frames} samples, {start + len(samples)} are there")
        return samples, file.samplerate


def decode_blocks(source: Path | io.BytesIO, utterance: Utterance, block_s: float) -> Iterator[tuple[Samples, int]]:
    """Yield the samples of `decode` in blocks of `block_s` seconds, the last one shorter, each with the rate.

    Raises:
        PqmError: as `load_audio` does, naming `utterance`; what was yielded before stands.
    """
    with _opened(source, utterance) as file:
        n_samples = max(1, round(block_s * file.samplerate))
        for first in range(0, file.frames, n_samples):
            wanted = min(n_samples, file.frames - first)
            samples = file.read(wanted, dtype="float32", always_2d=True)
            if len(samples) < wanted:
                there = first + len(samples)
                raise _cut_off(utterance, f"the header promises {file.frames} samples, {there} are there")
            yield samples, file.samplerate


@contextmanager
def _opened(source: Path | io.BytesIO, utterance: Utterance) -> Iterator[soundfile.SoundFile]:
    """Open audio that has samples and a whole file behind its header; decoding errors become a `PqmError`."""
    with source.open("rb") if isinstance(source, Path) else source as raw:
        missing = missing_bytes(raw)
        if missing:
            raise _cut_off(utterance, f"at least {missing} bytes that it promises are not there")
        try:
            # A path of its own, not `raw`: decoding through Python's file object is slower.
            file = soundfile.SoundFile(os.fsencode(source) if isinstance(source, Path) else raw)
        except soundfile.SoundFileError as error:
            raise PqmError(
                f"{_named(utterance)} is not audio, or is cut off in its header ({error}): {_AGAIN}"
            ) from None
        with file:
            if file.frames == 0:
                raise PqmError(f"{_named(utterance)} holds no samples: {_AGAIN}")
            if file.frames >= _UNKNOWN_LENGTH:
                how = "decode it to WAV with `flac -d` or sox and encode that"
                raise PqmError(f"{_named(utterance)} does not say how long it is: {how}")
            try:
                yield file
            except soundfile.SoundFileError as error:
                promise = f"decoding its {file.frames} samples stops: {error}"
                raise _cut_off(utterance, promise.rstrip(" .:")) from None


def _existing(utterance: Utterance) -> Path:
    path = on_disk(Path(utterance.audio))
    if not utterance.audio or not path.is_file():
        raise PqmError(f"{_named(utterance)} is missing: put the file there, or remove the utterance from the set")
    if path.stat().st_size == 0:
        raise PqmError(f"{_named(utterance)} is empty (0 bytes): {_AGAIN}")
    return path


@functools.lru_cache(maxsize=1)  # the segments of one talk follow each other
def _output(command: str) -> bytes:
    """Return what a `wav.scp` command prints; like Kaldi, this runs the shell line that the data folder names."""
    done = subprocess.run(command.rstrip().removesuffix("|"), shell=True, capture_output=True, check=False)
    if done.returncode != 0 or not done.stdout:
        said = " ".join(done.stderr.decode(errors="replace").split())[-200:]
        gave = f"{len(done.stdout)} bytes and exit {done.returncode} ({said})"
        raise PqmError(f"wav.scp command `{command}` gave {gave}: run it by hand to see why")
    return done.stdout


def _from_archive(utterance: Utterance) -> tuple[Samples, int]:
    place = _ARCHIVE.fullmatch(utterance.audio)
    assert place is not None
    path = _existing(Utterance(utterance.utterance, utterance.speaker, "", place["path"]))
    with path.open("rb") as file:
        file.seek(int(place["offset"]))
        head = file.read(5)
        # kaldiio would unpickle a block marked PKL, and that runs whatever the archive's author wrote.
        if not head.startswith((b"RIFF", b"fLaC", b"AUDIO")):
            raise PqmError(f"{_named(utterance)} is not audio: point wav.scp at a WAV or FLAC block of the archive")
        file.seek(int(place["offset"]))
        if missing_bytes(file):
            raise _cut_off(utterance, "the archive ends within its samples")
    try:
        rate, values = kaldiio.load_mat(utterance.audio)
    except (soundfile.SoundFileError, WaveError, struct.error, ValueError, EOFError) as error:
        raise _cut_off(utterance, f"its block cannot be decoded: {error}") from None
    samples = _as_float(np.atleast_2d(values.T).T)
    start, stop = _bounds(utterance, len(samples), rate)
    return samples[start:stop], rate


def _as_float(values: npt.NDArray[np.generic]) -> Samples:
    if values.dtype == np.uint8:
        return (values.astype(np.float32) - np.float32(128)) / np.float32(128)
    if values.dtype == np.int16:
        return values.astype(np.float32) / np.float32(32768)
    return values.astype(np.float32)


def _bounds(utterance: Utterance, n_samples: int, rate: int) -> tuple[int, int]:
    """Return the first sample of the utterance and the one behind its last."""
    if utterance.start_s is None:
        start, stop = 0, n_samples
    else:
        start = round(utterance.start_s * rate)
        stop = n_samples if utterance.end_s is None else round(utterance.end_s * rate)
    if 0 <= start < min(stop, n_samples) and stop <= n_samples + OVERSHOOT_S * rate:
        return start, min(stop, n_samples)
    length_s = n_samples / rate
    raise PqmError(
        f"{_named(utterance)}: segment {utterance.start_s} to {utterance.end_s} s is not inside the recording of "
        f"{length_s:.2f} s: correct its line in segments, or fetch the recording again"
    )


def resample(samples: Samples, rate: int, wanted: int) -> Samples:
    """Return samples `(n_samples,)` at another rate in Hz, by polyphase filtering."""
    if rate == wanted:
        return samples
    _say_resampled(rate, wanted)
    # scipy rather than torchaudio: the same polyphase method, an exact ratio, and no five seconds of import.
    from scipy.signal import resample_poly

    common = math.gcd(rate, wanted)
    return resample_poly(samples, wanted // common, rate // common).astype(np.float32, copy=False)


@functools.cache
def _say_resampled(rate: int, wanted: int) -> None:
    _log.warning("audio at %d Hz is resampled to %d Hz", rate, wanted)


def _cut_off(utterance: Utterance, why: str) -> PqmError:
    return PqmError(f"{_named(utterance)} is cut off or damaged ({why}): {_AGAIN}")


def _named(utterance: Utterance) -> str:
    where = utterance.audio or "audio"
    return f"{where} (utterance {utterance.utterance})" if utterance.utterance else where
