"""The list of what is handed on: every file's size and hash; strangers write it, so nothing in it is believed."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pqm_plugin.adapters.options import CONFIG, INFO, WEIGHTS
from pqm_plugin.errors import PqmError
from pqm_plugin.files import safe_name
from pqm_plugin.personal.folder import SAT, SPEAKERS, speaker_name
from pqm_plugin.quantize.modes import META, PACKED

MANIFEST = "manifest.json"
FORMAT, FORMAT_VERSION = "pqm-pack", 1
MOST_BYTES = 64 * 2**20
"""Longest manifest that is read: half a million files."""
ADAPTER_FILES = (WEIGHTS, CONFIG, INFO, "train.tsv")
_NEEDED = (WEIGHTS, CONFIG, INFO)
# What configurations, token lists, tokenisers and statistics are; nothing that could be run or unpickled.
_ENDINGS = (".json", ".yaml", ".txt", ".model", ".npz", ".safetensors", ".md")
_HASH = re.compile(r"[0-9a-f]{64}")
_LARGEST = 2**50


@dataclass(frozen=True)
class Entry:
    """Size in bytes and SHA-256 of one file."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The files by their names below the model's folder, and what else its maker says."""

    files: Mapping[str, Entry]
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def total_bytes(self) -> int:
        """Sum of all sizes."""
        return sum(entry.size_bytes for entry in self.files.values())

    def to_bytes(self) -> bytes:
        """As it stands in a pack: JSON, the same for the same files."""
        head = {"format": FORMAT, "format_version": FORMAT_VERSION, **self.about}
        files = {name: vars(entry) for name, entry in sorted(self.files.items())}
        return (json.dumps(head | {"files": files}, indent=1, ensure_ascii=False) + "\n").encode()

    @classmethod
    def parse(cls, data: bytes, where: str) -> "Manifest":
        """Read the list of a pack.

        Args:
            where: what to call it in messages.

        Raises:
            PqmError: if it is damaged, of another version, or names files that a model has not.
        """
        try:
            found = json.loads(data.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise PqmError(f"{where}: {MANIFEST} is damaged ({str(error)[:80]}): fetch it again") from error
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise PqmError(f"{where} is no pack of a personal model: make one with `pqm pack`")
        if found.get("format_version") != FORMAT_VERSION:
            version = str(found.get("format_version"))[:20]
            raise PqmError(
                f"{where} has format version {version}, this program reads {FORMAT_VERSION}: update one of them"
            )
        files = found.get("files")
        if not isinstance(files, dict):
            raise PqmError(f"{where}: {MANIFEST} lists no files: fetch it again")
        entries = {str(name): _entry(where, str(name), value) for name, value in files.items()}
        check_names(entries, where)
        about = {key: found[key] for key in found if key not in ("format", "format_version", "files")}
        return cls(entries, about)


def _entry(where: str, name: str, value: Any) -> Entry:
    size, digest = (value.get("size_bytes"), value.get("sha256")) if isinstance(value, dict) else (None, None)
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _LARGEST:
        raise PqmError(f"{where}: {MANIFEST} gives {name[:80]!r} no usable size: fetch it again")
    if not isinstance(digest, str) or not _HASH.fullmatch(digest):
        raise PqmError(f"{where}: {MANIFEST} gives {name[:80]!r} no SHA-256: fetch it again")
    return Entry(size, digest)


def check_names(names: Iterable[str], where: str) -> None:
    """Refuse all names but those of a model's files, each one a file of its own on every system.

    Raises:
        PqmError: naming the first that is refused, or what is missing.
    """
    names = list(names)
    seen: set[str] = set()
    for name in names:
        if not is_model_file(name):
            raise PqmError(f"{where}: {name[:100]!r} is no file of a personal model: it is refused")
        if name.casefold() in seen:
            raise PqmError(f"{where}: {name!r} stands in it twice, or in two letter cases: it is refused")
        seen.add(name.casefold())
    folders = {name.rpartition("/")[0] for name in names if "/" in name}
    needed = [META, PACKED, *(f"{folder}/{file}" for folder in sorted(folders) for file in _NEEDED)]
    missing = sorted(set(needed) - set(names))
    if missing:
        raise PqmError(f"{where}: {missing[0]} is missing: it is not whole, fetch it again")


def is_model_file(name: str) -> bool:
    """Whether a name can be that of a personal model's file."""
    parts = name.split("/")
    try:
        for part in parts:
            safe_name(part, "file")
        if len(parts) == 1:
            allowed = name.endswith(_ENDINGS) and name != MANIFEST
        elif len(parts) == 2:
            allowed = parts[0] == SAT and parts[1] in ADAPTER_FILES
        else:
            allowed = len(parts) == 3 and parts[0] == SPEAKERS and parts[2] in ADAPTER_FILES
            speaker_name(parts[1])
    except PqmError:
        allowed = False
    return allowed
