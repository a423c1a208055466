"""The folder of a personal model and its files; imports no heavy library."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pqm_plugin.adapters.options import CONFIG, INFO, WEIGHTS
from pqm_plugin.corpus.names import suggest
from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json, safe_name, sha256, utf8_name
from pqm_plugin.models.foreign import describe
from pqm_plugin.quantize.modes import ABOUT, META, PACKED
from pqm_plugin.words import WordList, read_words

CARD = "README.md"
SAT = "sat"
SPEAKERS = "speakers"
WORDS = "words"
"""Folder of the speakers' lists of words, `NAME.txt` each: beside the adapters, which enrolment replaces."""
# Stage 5 keeps its journals beside the speakers' folders.
_TAKEN = ("log", "index.tsv")
_HASH = re.compile(r"[0-9a-f]{64}")


def speaker_name(name: str) -> str:
    """Return `name` if it can be a speaker of a personal model, see `files.safe_name`.

    Raises:
        PqmError: if it cannot, or is one of the names that the recipes use beside the speakers.
    """
    if safe_name(name).lower() in _TAKEN:
        raise PqmError(f"speaker name {name!r} is used by the recipes for a file of their own: choose another")
    return name


@dataclass(frozen=True)
class ModelFolder:
    """Paths of a personal model, and what its small files say."""

    path: Path

    @classmethod
    def of(cls, path: str | Path) -> "ModelFolder":
        """The folder at `path`.

        Raises:
            PqmError: if it holds no packed model, or its name is not UTF-8.
        """
        folder = cls(utf8_name(Path(path).expanduser()))
        for name in (PACKED, META):
            if not (folder.path / name).is_file():
                if folder.path.is_dir() and _is_float_model(folder.path):
                    raise PqmError(
                        f"{folder.path} is a model in full precision ({name} is missing): pack it first, with "
                        f"`pqm quantize {folder.path} OUT`, and give OUT"
                    )
                if what := describe(str(folder.path)):
                    raise PqmError(f"{folder.path} is {what}")
                raise PqmError(
                    f"{folder.path} holds no packed model ({name} is missing): make one with `pqm quantize MODEL "
                    f"{folder.path}`, or unpack one with `pqm unpack`"
                )
        return folder

    @property
    def packed(self) -> Path:
        """The 4-bit weights."""
        return self.path / PACKED

    def meta(self) -> Mapping[str, Any]:
        """What was recorded when the model was quantised.

        Raises:
            PqmError: if the record lacks what is needed of it.
        """
        found = read_object(self.path / META)
        if not _HASH.fullmatch(str(found.get("sha256"))):
            raise PqmError(f"{self.path / META} does not give the sha256 of {PACKED}: quantize the model again")
        return found

    def intact(self) -> str:
        """The sha256 of the 4-bit weights.

        Raises:
            PqmError: if it is not that of the record.
        """
        expected, found = str(self.meta()["sha256"]), sha256(self.packed)
        if found != expected:
            raise PqmError(
                f"{self.packed} is damaged (sha256 {found[:12]}…, recorded is {expected[:12]}…): fetch or make it again"
            )
        return found

    def about(self) -> Mapping[str, Any]:
        """What the model's maker says of it; empty where nothing is said."""
        path = self.path / ABOUT
        return read_object(path) if path.exists() else {}

    def speaker(self, name: str) -> Path:
        """Where the adapter of speaker `name` is, or would be.

        Raises:
            PqmError: if the name cannot be a folder's.
        """
        return self.path / SPEAKERS / speaker_name(name)

    def speakers(self) -> list[str]:
        """Names of the speakers that have an adapter, sorted."""
        root = self.path / SPEAKERS
        found = [path.name for path in root.iterdir()] if root.is_dir() else []
        return sorted(name for name in found if not name.startswith(".") and is_adapter(root / name))

    def known_speaker(self, name: str) -> Path:
        """The adapter of speaker `name`.

        Raises:
            PqmError: if there is none, naming the nearest.
        """
        folder = self.speaker(name)
        if not is_adapter(folder):
            raise PqmError(
                f"{self.path} has no speaker {name!r} ({suggest(name, self.speakers())}): "
                f"enrol with `pqm enroll {self.path} --speaker {name} RECORDINGS`"
            )
        return folder

    def words_file(self, name: str) -> Path:
        """Where the words of speaker `name` are, or would be.

        Raises:
            PqmError: if the name cannot be a folder's.
        """
        return self.path / WORDS / f"{speaker_name(name)}.txt"

    def words(self, adapter: Path | None) -> WordList | None:
        """The words that are kept with the speaker of an adapter's folder; None without any.

        Raises:
            PqmError: if the list is damaged.
        """
        if adapter is None or adapter.parent.name != SPEAKERS:
            return None
        path = self.words_file(adapter.name)
        try:
            known = path.stat()
        except FileNotFoundError:
            return None
        return _read_once(path, known.st_mtime_ns, known.st_size)

    def sat(self) -> Path | None:
        """The speaker-independent adapter, if there is one."""
        folder = self.path / SAT
        return folder if is_adapter(folder) else None

    def adapters(self) -> dict[str, Path]:
        """Every adapter by its name in a listing: `sat`, `speakers/NAME`."""
        sat = self.sat()
        own = {f"{SPEAKERS}/{name}": self.path / SPEAKERS / name for name in self.speakers()}
        return ({SAT: sat} if sat else {}) | own


def _is_float_model(folder: Path) -> bool:
    """Asks the families, which are imported for a message alone."""
    from pqm_plugin.models.families import is_float_model

    return is_float_model(folder)


@lru_cache(maxsize=64)
def _read_once(path: Path, changed_ns: int, size_bytes: int) -> WordList:
    """The list in a file, which is read again when it has changed."""
    return read_words(path)


def is_adapter(folder: Path) -> bool:
    """Whether `folder` has the files of an adapter."""
    return all((folder / name).is_file() for name in (WEIGHTS, CONFIG, INFO))


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        PqmError: if the file is missing, not JSON, or holds something else.
    """
    try:
        found = read_json(path)
    except RecursionError:
        found = None
    if not isinstance(found, dict):
        raise PqmError(f"{path} is not a JSON object: fetch or make it again")
    return found
