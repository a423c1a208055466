"""Download a corpus's archives: resumable, checked against published checksums, unpacked whole or not at all."""

import contextlib
import hashlib
import http
import http.client
import logging
import os
import re
import shutil
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pqm_plugin.errors import PqmError
from pqm_plugin.files import exclusive, no_space_as_error
from pqm_plugin.progress import Bar

OPENSLR = "https://www.openslr.org/resources"
MIRROR = "PQM_OPENSLR"
"""Environment variable with the address of a mirror of `OPENSLR`, such as https://us.openslr.org/resources."""
_BLOCK_BYTES = 1 << 20
_TIMEOUT_S = 60
_ATTEMPTS = 5
_CUT_OFF = (http.client.HTTPException, ConnectionError, TimeoutError)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Archive:
    """A published tar file.

    `path` is its address under the server's, `checksum` is `md5:…` or `sha256:…`, and `holds` the folder that is there
    once it is unpacked, relative to where that happens.
    """

    path: str
    checksum: str
    holds: str

    @property
    def name(self) -> str:
        """Its file name."""
        return self.path.rpartition("/")[2]


def fetch(archive: Archive, folder: Path, server: str = "") -> Path:
    """Return the folder that `archive` holds, below `folder`; download and unpack it where it is not there.

    What a cut-off transfer has brought is kept in `folder` and gone on with, in this call or the next one. An archive
    that a user has put into `folder` is taken instead. `server` is by default the variable `MIRROR`'s, or OpenSLR.

    Raises:
        PqmError: in one line with the remedy, if the server cannot be reached, the file does not have its checksum, it
            is not a tar file, or the disk is too small.
    """
    whole = folder / archive.holds
    if whole.is_dir():
        return whole
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder / ".lock", "another folder"), no_space_as_error(folder):
        packed = folder / archive.name
        brought = not packed.exists()
        if brought:
            url = f"{(server or os.environ.get(MIRROR) or OPENSLR).rstrip('/')}/{archive.path}"
            part = packed.with_name(packed.name + ".part")
            _download(url, part, packed)
            _verify(part, archive, f"{url} is not what was published, and was removed: run the same command again")
            part.replace(packed)
        else:
            _verify(packed, archive, f"remove {packed} to have it fetched")
        _unpack(packed, folder, whole)
        if brought:
            packed.unlink()
    return whole


def _download(url: str, part: Path, packed: Path) -> None:
    """Bring `url` into `part`, going on where that ends, as long as each attempt brings something."""
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            if _transfer(url, part):
                return
            reason = "the transfer was cut off"
        except urllib.error.HTTPError as error:
            raise _unreachable(url, packed, f"HTTP {error.code} {error.reason}") from None
        except urllib.error.URLError as error:
            reason = str(error.reason)
        except _CUT_OFF as error:
            reason = str(error) or type(error).__name__
        grown = part.exists() and part.stat().st_size > before
        failures = 0 if grown else failures + 1
        if failures >= _ATTEMPTS or (failures and before == 0):
            raise _unreachable(url, packed, reason)
        _log.warning("%s: %s; going on", url, reason)
        time.sleep(min(30, 2**failures - 1))


def _transfer(url: str, part: Path) -> bool:
    """Append to `part` what it lacks of `url`; False if the server stopped before the end."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return True  # nothing is missing; the checksum tells whether it is right
        raise
    with response:
        start = _start(response)
        total = start + int(response.headers.get("Content-Length") or 0)
        _check_space(part, total - start, url)
        with part.open("ab") as file:
            file.truncate(start)
            _copy(response, file, start, total, url)
        return part.stat().st_size >= total


def _start(response: http.client.HTTPResponse) -> int:
    """Return the place in the file at which the server's answer begins."""
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range") or "")
    return int(match[1]) if response.status == http.HTTPStatus.PARTIAL_CONTENT and match else 0


def _copy(response: BinaryIO, file: BinaryIO, start: int, total: int, url: str) -> None:
    name = url.rpartition("/")[2]
    with Bar(desc=name, initial=start, total=total or None, unit="B", unit_scale=True, mininterval=1) as bar:
        while block := response.read(_BLOCK_BYTES):
            file.write(block)
            bar.update(len(block))


def _verify(path: Path, archive: Archive, remedy: str) -> None:
    """Raise unless `path` has the published checksum; a `.part` that has not is removed."""
    kind, _, wanted = archive.checksum.partition(":")
    _log.info("%s: checking its %s", path, kind)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, kind).hexdigest()
    if found == wanted:
        return
    if path.suffix == ".part":
        path.unlink()
    raise PqmError(f"{path.name.removesuffix('.part')} has {kind} {found} instead of {wanted}: {remedy}")


def _unpack(packed: Path, folder: Path, whole: Path) -> None:
    """Unpack beside `folder`'s contents and move them in, what the archive is fetched for last."""
    _check_space(packed, packed.stat().st_size, f"unpacking {packed.name}")
    _log.info("%s: unpacking", packed)
    with _scratch(folder) as scratch:
        try:
            with tarfile.open(packed) as tar:
                tar.extractall(scratch, filter="data")
        except (tarfile.TarError, EOFError) as error:
            raise PqmError(f"{packed} cannot be unpacked ({error}): remove it to have it fetched again") from None
        unpacked = scratch / whole.relative_to(folder)
        if not unpacked.is_dir():
            raise PqmError(f"{packed} holds no {whole.relative_to(folder)}: remove it to have it fetched again")
        for path in sorted(unpacked.parent.iterdir(), key=lambda path: path == unpacked):
            target = whole.parent / path.name
            if path == unpacked or not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Yield a folder beside the others that is gone afterwards, and remove one that a killed run has left."""
    for left in folder.glob(".unpack.*"):
        shutil.rmtree(left, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=".unpack.", dir=folder))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _check_space(path: Path, needed_bytes: int, what: str) -> None:
    free_bytes = shutil.disk_usage(path.parent).free
    if needed_bytes > free_bytes:
        raise PqmError(
            f"{path.parent}: {what} needs {needed_bytes / 1e9:.1f} GB and {free_bytes / 1e9:.1f} GB are free: "
            "free some space, or unpack the corpus elsewhere and give it with --corpus"
        )


def _unreachable(url: str, packed: Path, reason: str) -> PqmError:
    return PqmError(
        f"{url} cannot be fetched ({reason}): run the same command again, download it by other means to {packed}, set "
        f"{MIRROR} to a mirror of {OPENSLR}, or give the unpacked corpus with --corpus"
    )
