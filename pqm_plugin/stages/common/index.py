"""Which adapters are done, in one file: thousands of folders are not opened to find that there is nothing to do."""

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Self

from pqm_plugin.adapters.files import FORMAT_VERSION, WEIGHTS
from pqm_plugin.files import write_text
from pqm_plugin.records import request_hash
from pqm_plugin.stages.common.opening import trust_hash, weights_hash
from pqm_plugin.stages.common.systems import all_adapter_sets
from pqm_plugin.stages.recipe import Recipe

INDEX = "index.tsv"
_HEADER = ("speaker", "request", "weights_sha256", "weights_bytes", "changed_ns")


@dataclass(frozen=True)
class Row:
    """An adapter that is done: the hash of its request, and its weights file as it was then."""

    speaker: str
    request: str
    sha256: str
    size_bytes: int
    changed_ns: int

    @classmethod
    def of(cls, folder: Path, request: Mapping[str, Any], weights: str = WEIGHTS) -> Self:
        """The row of an adapter's folder, which is done; `weights` is the name of the file in it."""
        path = folder / weights
        status = path.stat()
        return cls(folder.name, _hash_of(request), weights_hash(path), status.st_size, status.st_mtime_ns)

    def line(self) -> str:
        """As it stands in a file."""
        return "\t".join(str(value) for value in astuple(self)) + "\n"


class AdapterIndex:
    """The rows of the adapters below `root`, by speaker.

    One process reads and writes `index.tsv`, whole; jobs append rows to journals of their own, `log/*.done`, which it
    takes in when they have ended, or at its next start. A row counts as long as the weights file is there as the row
    has it, so the worst that a lost, broken or old index can do is that folders are opened.
    """

    def __init__(self, root: Path, weights: str = WEIGHTS) -> None:
        """Read what is known of the folders below `root`, each with a file named `weights`."""
        self._root = root
        self._weights = weights
        self._path = root / INDEX
        rows, n_broken = _read([self._path])
        self._rows = {row.speaker: row for row in rows}
        self._as_written = None if n_broken else dict(self._rows)
        if n_broken:
            logging.warning("%s has %d broken lines, which are left out", self._path, n_broken)
        self._folders = {entry.name for entry in os.scandir(root)} if root.is_dir() else set[str]()
        self.take_in()

    def holds(self, speaker: str, request: Mapping[str, Any]) -> bool:
        """Whether the speaker's adapter is known to answer this request; if not, its folder says more."""
        row = self._rows.get(speaker)
        return row is not None and row.request == _hash_of(request) and self._stands(row)

    def has_folder(self, speaker: str) -> bool:
        """Whether there was a folder of that name when the index was read."""
        return speaker in self._folders

    def has_checkpoints(self) -> bool:
        """Whether there were files of trainings that had not ended when the index was read."""
        return any(name.endswith(".train") for name in self._folders)

    def add(self, row: Row) -> None:
        """Take in an adapter that is done."""
        self._rows[row.speaker] = row

    def take_in(self) -> None:
        """Read what jobs noted, write the index if it changed, and remove the journals."""
        journals = sorted((self._root / "log").glob("*.done"))
        for row in _read(journals)[0]:
            self._rows[row.speaker] = row
        if self._rows != self._as_written and self._root.is_dir():
            lines = ["\t".join(_HEADER) + "\n", *(self._rows[name].line() for name in sorted(self._rows))]
            write_text(self._path, "".join(lines))
            self._as_written = dict(self._rows)
        for journal in journals:
            journal.unlink(missing_ok=True)

    def trust(self) -> None:
        """Let `weights_hash` take the hashes from here while the files stay the same."""
        for row in self._rows.values():
            trust_hash(self._root / row.speaker / self._weights, row.size_bytes, row.changed_ns, row.sha256)

    def _stands(self, row: Row) -> bool:
        if row.speaker not in self._folders:
            return False
        try:
            status = os.stat(f"{self._root}/{row.speaker}/{self._weights}")
        except OSError:
            return False
        return (status.st_size, status.st_mtime_ns) == (row.size_bytes, row.changed_ns)


def _hash_of(request: Mapping[str, Any]) -> str:
    """An adapter of another format version is not done, whatever the index of that version says."""
    return request_hash({"format_version": FORMAT_VERSION, **request})


def trust_adapters(recipe: Recipe) -> None:
    """Let `weights_hash` take the hashes of all speakers' adapters from their index."""
    for adapter_set in all_adapter_sets(recipe):
        AdapterIndex(adapter_set.root(recipe), adapter_set.weights).trust()


def _read(paths: Iterable[Path]) -> tuple[list[Row], int]:
    """The rows of some files, and how many lines are none."""
    rows, n_broken = [], 0
    for path in paths:
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        for line in text.splitlines():
            fields = line.split("\t")
            if tuple(fields) == _HEADER:
                continue
            if len(fields) == len(_HEADER) and fields[3].isdecimal() and fields[4].isdecimal():
                rows.append(Row(fields[0], fields[1], fields[2], int(fields[3]), int(fields[4])))
            else:
                n_broken += 1
    return rows, n_broken
