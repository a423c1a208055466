"""Files that are either whole or not there: write aside, then rename."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pqm_plugin.errors import PqmError

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_RESERVED = {"con", "prn", "aux", "nul", *(f"com{i}" for i in range(10)), *(f"lpt{i}" for i in range(10))}


def safe_name(name: str, what: str = "speaker") -> str:
    """Return `name` if it can be a file name on every system.

    Raises:
        PqmError: if it holds anything but letters, digits, dot, dash and underscore, starts with a sign, is longer
            than 100 characters, ends with a dot, or is a reserved device name.
    """
    stem = name.split(".")[0].lower()
    if not _SAFE_NAME.fullmatch(name) or name.endswith(".") or stem in _RESERVED:
        raise PqmError(
            f"{what} name {name[:60]!r} cannot be a folder name: use up to 100 of A-Z a-z 0-9 . _ - "
            "and start with a letter or digit"
        )
    return name


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a scratch path beside `path`; rename it over `path` when the block ends well.

    A process that is killed, or a disk that fills, leaves an earlier `path` untouched.

    Raises:
        PqmError: if the disk is full, naming the file.
    """
    with no_space_as_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
        os.close(handle)
        scratch = Path(name)
        try:
            yield scratch
            with scratch.open("rb") as written:
                os.fsync(written.fileno())
            scratch.chmod(0o644)
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a scratch folder beside `path`; it takes the place of `path` when the block ends well.

    An older `path` is removed only after the new one is complete. Whoever writes `path` must be alone in doing so: what
    a killed process left aside is found by its name, for a listing of thousands of siblings takes long.

    Raises:
        PqmError: if the disk is full, naming the folder.
    """
    with no_space_as_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch, old = (path.with_name(f".{path.name}.{end}") for end in ("partial", "old"))
        for left_by_a_kill in (scratch, old):
            shutil.rmtree(left_by_a_kill, ignore_errors=True)
        scratch.mkdir(mode=0o700)
        try:
            yield scratch
            scratch.chmod(0o755)
            if path.exists():
                path.replace(old)
                scratch.replace(path)
                shutil.rmtree(old)
            else:
                scratch.replace(path)
        except PqmError as error:
            # The scratch folder is gone when this is read.
            raise PqmError(str(error).replace(str(scratch), str(path))) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def no_space_as_error(path: Path) -> Iterator[None]:
    """Turn "no space left on device" into a `PqmError` that names `path`, whichever library met it."""
    try:
        yield
    except PqmError:
        raise
    except Exception as error:
        if not _is_no_space(error):
            raise
        raise PqmError(
            f"{path}: the disk is full; free some space and run the same command again, nothing earlier was touched"
        ) from error


def _is_no_space(error: BaseException | None) -> bool:
    """Whether a full disk is behind `error`: safetensors only says so in words, torch raises its own error over it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_SPACE:
            return True
        if any(os.strerror(number) in str(error) for number in _NO_SPACE):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def exclusive(path: Path, instead: str = "another --expdir") -> Iterator[None]:
    """Hold the lock file `path`; it is free again when this process ends, however that happens.

    Raises:
        PqmError: if another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise PqmError(
                f"{path.parent}: process {file.read().strip() or 'unknown'} is at work on it; "
                f"wait for it to end, or choose {instead}"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 text file, see `whole_file`."""
    with whole_file(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a whole JSON file, see `whole_file`; keys keep their order."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        PqmError: if it is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PqmError(f"{path} is missing: run the stage that writes it") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise PqmError(f"{path} is not JSON ({error}): delete it and run the stage that writes it again") from None


def sha256(path: Path) -> str:
    """Hash of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
