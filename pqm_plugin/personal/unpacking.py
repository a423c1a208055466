"""Unpack a model from a pack that may be untrusted: only files of the manifest, whole, or nothing."""

import hashlib
import json
import re
import shutil
import stat
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pqm_plugin.adapters.options import CONFIG, INFO, WEIGHTS
from pqm_plugin.errors import PqmError
from pqm_plugin.files import safe_name, whole_folder
from pqm_plugin.personal.facts import facts
from pqm_plugin.personal.folder import SAT, SPEAKERS, WORDS, ModelFolder, speaker_name
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
            PqmError: if it is damaged, of another version, or names files that a model does not have.
        """
        try:
            found = json.loads(data.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise PqmError(f"{where}: {MANIFEST} is damaged ({str(error)[:80]}): fetch it again") from error
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise PqmError(f"{where} is not a pack of a personal model: make one with `pqm pack`")
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
            raise PqmError(f"{where}: {name[:100]!r} is not a file of a personal model: it is refused")
        if name.casefold() in seen:
            raise PqmError(f"{where}: {name!r} appears twice, or in two letter cases: it is refused")
        seen.add(name.casefold())
    folders = {name.rpartition("/")[0] for name in names if "/" in name} - {WORDS}
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
            if parts[0] == WORDS:
                allowed = parts[1].endswith(".txt") and bool(speaker_name(parts[1].removesuffix(".txt")))
        else:
            allowed = len(parts) == 3 and parts[0] == SPEAKERS and parts[2] in ADAPTER_FILES
            speaker_name(parts[1])
    except PqmError:
        allowed = False
    return allowed


_CHUNK_BYTES = 2**20
_ENCRYPTED = 0x1
_ZIP_ERRORS = (
    *(zipfile.BadZipFile, struct.error, EOFError, NotImplementedError, RuntimeError, OSError),
    *(ValueError, KeyError, IndexError, OverflowError, MemoryError),
)


def unpack(pack: str | Path, out: str | Path) -> ModelFolder:
    """Take the model of a pack into the new folder `out`.

    Raises:
        PqmError: if `out` is there already, the disk has too little room, or the pack is in any way not what its
            manifest says; then there is no `out`.
    """
    target = Path(out).expanduser()
    if target.exists():
        raise PqmError(f"{target} is there already: choose another folder, or remove it first")
    with _opened(Path(pack).expanduser()) as (archive, manifest):
        refuse_if_too_large(manifest, target)
        with whole_folder(target) as scratch:
            for name, entry in manifest.files.items():
                path = scratch / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as sink:
                    _read(archive, name, entry, str(pack), sink.write)
            check_records(scratch, manifest, str(pack))
    return ModelFolder.of(target)


def check_pack(pack: Path) -> None:
    """Read a pack to its end and compare it with its manifest; nothing is written.

    Raises:
        PqmError: naming the first thing that is wrong.
    """
    with _opened(pack) as (archive, manifest):
        for name, entry in manifest.files.items():
            _read(archive, name, entry, str(pack), len)


def refuse_if_too_large(manifest: Manifest, target: Path) -> None:
    """Refuse what the disk has no room for, before the first byte.

    Raises:
        PqmError: with both sizes.
    """
    place = next(parent for parent in target.absolute().parents if parent.exists())
    free = shutil.disk_usage(place).free
    if manifest.total_bytes > free:
        raise PqmError(
            f"{place} has {free / 1e6:.0f} MB free, the model needs {manifest.total_bytes / 1e6:.0f} MB: make room"
        )


def check_records(folder: Path, manifest: Manifest, where: str) -> None:
    """Whether the records in the files agree with the files: the base is the one that all of them name.

    Raises:
        PqmError: if an adapter or the record is of another base.
    """
    found = facts(ModelFolder.of(folder))
    packed = manifest.files[ModelFolder(folder).packed.name].sha256
    others = [name for name, row in found["adapters"].items() if row["base_sha256"] != packed]
    if found["sha256"] != packed or others:
        raise PqmError(f"{where}: {others[0] if others else 'meta.json'} is of another base: it is refused")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[zipfile.ZipFile, Manifest]]:
    """A pack whose list of entries, sizes and names are as its manifest says."""
    if not path.is_file():
        raise PqmError(f"{path} is missing: give a file that `pqm pack` wrote")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _plain_entries(archive, path)
            if MANIFEST not in entries:
                raise PqmError(f"{path} is not a pack of a personal model: it has no {MANIFEST}")
            if entries[MANIFEST].file_size > MOST_BYTES:
                raise PqmError(f"{path}: {MANIFEST} is longer than {MOST_BYTES} bytes: it is refused")
            with archive.open(MANIFEST) as file:
                manifest = Manifest.parse(file.read(MOST_BYTES), str(path))
            _compare(entries, manifest, path)
            yield archive, manifest
    except PqmError:
        raise
    except _ZIP_ERRORS as error:
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise PqmError(f"{path} is damaged or not a pack ({reason}): fetch it again") from error


def _plain_entries(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """The entries by name, if each is a plain, uncompressed file of its own.

    What is stored plainly is in the archive byte for byte: an archive smaller than the sum of its entries lies.
    """
    entries: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        mode = stat.S_IFMT(info.external_attr >> 16)
        if info.filename in entries or info.orig_filename != info.filename:
            raise PqmError(f"{path}: {info.orig_filename[:100]!r} appears twice, or hides its name: it is refused")
        if mode not in (0, stat.S_IFREG) or info.is_dir():
            raise PqmError(f"{path}: {info.filename[:100]!r} is a link or a folder, not a file: it is refused")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & _ENCRYPTED:
            raise PqmError(f"{path}: {info.filename[:100]!r} is compressed or encrypted: it is refused")
        if info.compress_size != info.file_size:
            raise PqmError(f"{path}: {info.filename[:100]!r} has two sizes: it is refused")
        entries[info.filename] = info
    if sum(info.file_size for info in entries.values()) > path.stat().st_size:
        raise PqmError(f"{path} is shorter than what it lists: fetch it again")
    return entries


def _compare(entries: dict[str, zipfile.ZipInfo], manifest: Manifest, path: Path) -> None:
    odd = sorted((entries.keys() - {MANIFEST}) ^ manifest.files.keys())
    if odd:
        raise PqmError(f"{path}: {odd[0][:100]!r} is in the archive or in {MANIFEST} alone: it is refused")
    for name, entry in manifest.files.items():
        if entries[name].file_size != entry.size_bytes:
            raise PqmError(
                f"{path}: {name} has {entries[name].file_size} bytes, listed are {entry.size_bytes}: refused"
            )


def _read(archive: zipfile.ZipFile, name: str, entry: Entry, where: str, sink: Callable[[bytes], object]) -> None:
    """Pass a file on in small parts, and compare its hash.

    Raises:
        PqmError: if it is not the file that was listed.
    """
    digest = hashlib.sha256()
    left = entry.size_bytes
    with archive.open(name) as file:
        while left > 0 and (part := file.read(min(_CHUNK_BYTES, left))):
            digest.update(part)
            sink(part)
            left -= len(part)
    if left or digest.hexdigest() != entry.sha256:
        raise PqmError(f"{where}: {name} is not the file that was packed (its hash differs): fetch it again")
