"""Audio for tools that read nothing but plain files."""

import hashlib
from pathlib import Path

import numpy as np
from scipy.io import wavfile

from pqm_plugin.corpus.audio import load_audio, probe
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.files import safe_name, whole_file


def plain_file(utterance: Utterance, sample_rate: int, folder: Path) -> Path:
    """A file that holds the utterance alone at `sample_rate`: its own if it is one, else a copy in `folder`.

    The copy is 32-bit float WAV, so that a stock tool gets the very samples that `load_audio` gives.
    """
    path = Path(utterance.audio)
    if utterance.start_s is None and utterance.channel is None and path.is_file():
        info = probe(utterance)
        if info.is_plain and info.sample_rate == sample_rate and info.n_channels == 1:
            return path
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
