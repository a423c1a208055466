"""Samples of an utterance, from a file, a Kaldi archive or a command; the only importer of kaldiio."""

import functools
import hashlib
import io
import re
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import kaldiio
import numpy as np
import numpy.typing as npt
import soundfile
from kaldiio.python_wave import Error as WaveError

from pqm_plugin.corpus.headers import ending
from pqm_plugin.corpus.names import on_disk
from pqm_plugin.corpus.opening import AGAIN, cut_off, named, opened, say
from pqm_plugin.corpus.samples import Samples, Scale, check_channel, mono, resample
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError
from pqm_plugin.files import safe_name, whole_file

_ARCHIVE = re.compile(r"(?P<path>.+):(?P<offset>\d+)")
# Kaldi's extract-segments allows an end this far behind the recording, and cuts it.
OVERSHOOT_S = 0.5
# Three steps of 16-bit audio: dither and dead microphones stay below, any speech above.
_SILENCE_PEAK = 1e-4
# A recorder that cuts waves off does so at full scale, or a step below; what is softer was loud on purpose.
_CLIPPED_PEAK = 0.98
# A gigabyte of float32.
_MOST_VALUES = 2**28


@dataclass(frozen=True)
class AudioInfo:
    """What is known of an utterance's audio; `is_silent` only when it was decoded.

    `remarks` say what is odd about a file that is used all the same; `is_plain` that any reader of its format gives the
    same samples.
    """

    sample_rate: int
    n_samples: int
    n_channels: int
    is_silent: bool | None = None
    remarks: tuple[str, ...] = ()
    is_plain: bool = True

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
    chosen = mono(samples, utterance.channel, named(utterance))
    return np.ascontiguousarray(resample(chosen, rate, sample_rate))


def probe(utterance: Utterance, decode: bool = False) -> AudioInfo:
    """Check an utterance's audio and return its length, by default from the header and the last sample alone.

    The quick look finds a file that is missing, empty, cut off or not audio, and costs a fraction of a millisecond;
    damage in the middle of a file shows only with `decode`. Archives and commands are decoded always.

    Raises:
        PqmError: as `load_audio` does.
    """
    if not decode and _kind(utterance.audio) == "file":
        with opened(_existing(utterance), utterance) as file:
            start, stop = _bounds(utterance, file.frames, file.samplerate)
            check_channel(utterance.channel, file.channels, named(utterance))
            file.read(file.frames - 1, file.frames)
            remarks = tuple(file.remarks)
            return AudioInfo(file.samplerate, stop - start, file.channels, None, remarks, file.is_plain)
    remarks_heard: list[str] = []
    samples, rate = _read(utterance, remarks_heard)
    chosen = samples if utterance.channel is None else mono(samples, utterance.channel, named(utterance))
    return AudioInfo(rate, len(samples), samples.shape[1], is_silent(chosen), tuple(remarks_heard))


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


def look(path: Path) -> tuple[int, int, float | None]:
    """The rate in Hz and the channels of a file, and its length in seconds unless only decoding it would tell.

    Raises:
        PqmError: as `load_audio` does.
    """
    utterance = Utterance("", "", "", str(path))
    with opened(_existing(utterance), utterance) as file:
        return file.samplerate, file.channels, file.frames / file.samplerate if file.is_counted else None


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


def is_archive(audio: str) -> bool:
    """Whether an utterance's audio is a place in a Kaldi archive."""
    return _kind(audio) == "archive"


def _kind(audio: str) -> str:
    if audio.rstrip().endswith("|"):
        return "command"
    return "archive" if _ARCHIVE.fullmatch(audio) and not Path(audio).exists() else "file"


def _read(utterance: Utterance, remarks: list[str] | None = None) -> tuple[Samples, int]:
    """Return the utterance's samples `(n_samples, n_channels)` and their rate in Hz."""
    kind = _kind(utterance.audio)
    if kind == "archive":
        samples, rate = _from_archive(utterance)
    else:
        source = io.BytesIO(_output(utterance.audio)) if kind == "command" else _existing(utterance)
        samples, rate = decode(source, utterance, remarks)
    if not np.isfinite(samples).all():
        raise PqmError(f"{named(utterance)} holds values that are not numbers: write the file again as 16-bit audio")
    return samples, rate


def decode(source: Path | BinaryIO, utterance: Utterance, remarks: list[str] | None = None) -> tuple[Samples, int]:
    """Return samples `(n_samples, n_channels)` of a file or its bytes, and their rate in Hz; a segment if it is one.

    What is odd about a file that can be read is added to `remarks`.

    Raises:
        PqmError: as `load_audio` does, naming `utterance`.
    """
    with opened(source, utterance) as file:
        start, stop = _bounds(utterance, file.frames, file.samplerate)
        samples = file.read(start, stop)
        if remarks is not None:
            remarks += file.remarks
        return samples, file.samplerate


def decode_blocks(source: Path | BinaryIO, utterance: Utterance, block_s: float) -> Iterator[tuple[Samples, int]]:
    """Yield the samples of `decode` in blocks of `block_s` seconds, the last one shorter, each with the rate.

    Raises:
        PqmError: as `load_audio` does, naming `utterance`; what was yielded before stands.
    """
    with opened(source, utterance) as file:
        # A bound on the values of a block, for a small file may promise many channels at a high rate.
        n_samples = max(1, min(round(block_s * file.samplerate), _MOST_VALUES // file.channels))
        for samples in file.blocks(n_samples):
            yield samples, file.samplerate


def _existing(utterance: Utterance) -> Path:
    path = on_disk(Path(utterance.audio))
    if not utterance.audio or not path.is_file():
        raise PqmError(f"{named(utterance)} is missing: put the file there, or remove the utterance from the set")
    if path.stat().st_size == 0:
        raise PqmError(f"{named(utterance)} is empty (0 bytes): {AGAIN}")
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
            raise PqmError(f"{named(utterance)} is not audio: point wav.scp at a WAV or FLAC block of the archive")
        file.seek(int(place["offset"]))
        if ending(file).is_lost:
            raise cut_off(utterance, "the archive ends within its samples")
    try:
        rate, values = kaldiio.load_mat(utterance.audio)
    except (soundfile.SoundFileError, WaveError, struct.error, ValueError, EOFError) as error:
        raise cut_off(utterance, f"its block cannot be decoded: {error}") from None
    samples = _as_float(np.atleast_2d(values.T).T)
    if values.dtype.kind == "f":
        samples, said = Scale.of([samples]).applied(samples)
        say(utterance, said)
    start, stop = _bounds(utterance, len(samples), rate)
    return samples[start:stop], rate


def _as_float(values: npt.NDArray[np.generic]) -> Samples:
    if values.dtype == np.uint8:
        return (values.astype(np.float32) - np.float32(128)) / np.float32(128)
    if values.dtype == np.int16:
        return values.astype(np.float32) / np.float32(32768)
    if values.dtype == np.int32:
        return (values.astype(np.float64) / 2.0**31).astype(np.float32)
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
        f"{named(utterance)}: segment {utterance.start_s} to {utterance.end_s} s is not inside the recording of "
        f"{length_s:.2f} s: correct its line in segments, or fetch the recording again"
    )


def plain_file(utterance: Utterance, sample_rate: int, folder: Path) -> Path:
    """A file that holds the utterance alone at `sample_rate`: its own if it is one, else a copy in `folder`.

    The copy is 32-bit float WAV, so that a stock tool gets the very samples that `load_audio` gives.
    """
    path = Path(utterance.audio)
    if utterance.start_s is None and utterance.channel is None and path.is_file():
        info = probe(utterance)
        if info.is_plain and info.sample_rate == sample_rate and info.n_channels == 1:
            return path
    from scipy.io import wavfile

    copy = folder / f"{safe_name(utterance.utterance, 'utterance')}.{_version(utterance, sample_rate)}.wav"
    if not copy.exists():
        with whole_file(copy) as scratch:
            wavfile.write(scratch, sample_rate, load_audio(utterance, sample_rate).astype(np.float32))
    return copy


def _version(utterance: Utterance, sample_rate: int) -> str:
    """Names a copy after all that its samples depend on, so that an old one is never taken for a new one."""
    path = Path(utterance.audio)
    status = path.stat() if path.is_file() else None
    source = (repr(utterance), sample_rate, (status.st_size, status.st_mtime_ns) if status else None)
    return hashlib.sha256(repr(source).encode()).hexdigest()[:12]
