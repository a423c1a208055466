"""Sets of LibriSpeech that are made from others: whether a set is what is asked for, and writing it whole."""

import hashlib
import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from pqm_plugin.errors import PqmError
from pqm_plugin.files import whole_folder, write_json
from pqm_plugin.progress import Bar
from pqm_plugin.records import is_done

RECORD = "made.json"
"""What a set was asked for, in its folder."""
_TABLES = ("SPEAKERS.TXT", "CHAPTERS.TXT", "LICENSE.TXT", "README.TXT")
_STORED = "PCM_16"


@dataclass(frozen=True)
class DerivedSet:
    """A set to be made from another.

    `record` is what stays beside it: `request` holds all that decides it. `sounds` gives each of the `n_utterances` as
    its place below `folder`, mono samples in [-1, 1] and their rate in Hz; `texts` each transcript file.
    """

    folder: Path
    record: Mapping[str, Any]
    n_utterances: int
    sounds: Callable[[], Iterator[tuple[Path, NDArray[Any], int]]]
    texts: Callable[[], Iterator[tuple[Path, str]]]

    def make(self) -> None:
        """Write the set, unless it is there as it is asked for."""
        if self._is_made():
            return
        with whole_folder(self.folder) as scratch:
            for place, samples, rate in Bar(
                self.sounds(), total=self.n_utterances, desc=self.folder.name, unit="utterance"
            ):
                (scratch / place).parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(scratch / place, samples, rate, _STORED)
            for place, text in self.texts():
                (scratch / place).write_text(text, encoding="utf-8")
            write_json(scratch / RECORD, self.record)

    def _is_made(self) -> bool:
        """As stages decide: what differs from the request is named, and the set is made again.

        A set without a record is judged by its first utterance and the number of them.
        """
        if not self.folder.is_dir():
            return False
        if (self.folder / RECORD).is_file():
            return is_done(self.folder / RECORD, self.record["request"], str(self.folder))
        same = self._holds_the_same()
        found, done = ("as asked for", "it is kept") if same else ("not as asked for", "making it again")
        say(f"{self.folder} has no {RECORD}; number and first of its utterances are {found}: {done}")
        if same:
            write_json(self.folder / RECORD, self.record)
        return same

    def _holds_the_same(self) -> bool:
        place, samples, rate = next(self.sounds())
        if len(list(self.folder.rglob("*.flac"))) != self.n_utterances or not (self.folder / place).is_file():
            return False
        stored = io.BytesIO()
        soundfile.write(stored, samples, rate, _STORED, format="FLAC")
        stored.seek(0)
        expected, there = (soundfile.read(file, dtype="int16")[0] for file in (stored, self.folder / place))
        return np.array_equal(expected, there)


def say(text: str) -> None:
    """Tell the user."""
    print(text, file=sys.stderr)


def audio_of(corpus: Path, set_name: str) -> list[Path]:
    """The recordings of a set, sorted.

    Raises:
        PqmError: if the corpus has no such set.
    """
    source = corpus / set_name
    if files := sorted(source.rglob("*.flac")):
        return files
    raise PqmError(f"{source} holds no .flac: give the LibriSpeech folder with --corpus, and its sets with --sets")


def identity(folder: Path) -> str:
    """Hash of the names and sizes of a set's recordings and transcripts."""
    files = sorted(path for kind in ("*.flac", "*.trans.txt") for path in folder.rglob(kind))
    listed = json.dumps([(path.relative_to(folder).as_posix(), path.stat().st_size) for path in files])
    return hashlib.sha256(listed.encode()).hexdigest()[:16]


def copy_tables(corpus: Path, out: Path) -> None:
    """What lies beside the sets: readers, chapters, licence."""
    for name in _TABLES:
        if (corpus / name).is_file():
            shutil.copyfile(corpus / name, out / name)
