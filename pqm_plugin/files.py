"""Write files and folders whole or not at all: write aside, then rename."""

import contextlib
import ctypes
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
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
# Of linux/fcntl.h and linux/fs.h: paths are relative to the working folder; both names must exist and change places.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
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
        PqmError: if the disk is full or the folder may not be written, naming the file.
    """
    with refusal_as_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch, handle = _open_scratch(path)
        try:
            yield scratch
            with scratch.open("rb") as written:
                os.fsync(written.fileno())
            scratch.chmod(0o644)
            scratch.replace(path)
        except BaseException:
            scratch.unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)


def _open_scratch(path: Path) -> tuple[Path, int]:
    """An empty file beside `path` that nobody else writes, and the open file that keeps it so.

    Its name is always the same: what a killed process left there is written over, and does not fill the disk kill by
    kill. Only where two write one file at once, the second takes a name of its own.
    """
    scratch = path.with_name(f".{path.name}.partial")
    with contextlib.suppress(OSError):
        handle = os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between the two calls its writer may have renamed it: then this is the file that must stay as it is.
            if os.path.samestat(os.fstat(handle), os.stat(scratch)):
                os.ftruncate(handle, 0)
                return scratch, handle
        except OSError:
            os.close(handle)
            raise
        os.close(handle)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    return Path(name), handle


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a scratch folder beside `path`; it takes the place of `path` when the block ends well.

    At every instant there is the older `path` or the new one, and the older is removed only after the new one is
    complete. Whoever writes `path` must be alone in doing so: what a killed process left aside is found by its name,
    for a listing of thousands of siblings takes long.

    Raises:
        PqmError: if the disk is full or the folder may not be written, naming the folder.
    """
    with refusal_as_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch, old = (path.with_name(f".{path.name}.{end}") for end in ("partial", "old"))
        if old.exists() and not path.exists():
            # A kill between two renames, see `_put_in_place`.
            old.replace(path)
        for left_by_a_kill in (scratch, old):
            shutil.rmtree(left_by_a_kill, ignore_errors=True)
        scratch.mkdir(mode=0o700)
        try:
            yield scratch
            scratch.chmod(0o755)
            _put_in_place(scratch, path, old)
        except PqmError as error:
            # The scratch folder is gone when this is read.
            raise PqmError(str(error).replace(str(scratch), str(path))) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _put_in_place(scratch: Path, path: Path, old: Path) -> None:
    if not path.exists():
        scratch.replace(path)
    elif not _exchange(scratch, path):
        path.replace(old)
        scratch.replace(path)
        shutil.rmtree(old)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change names in one step; False where the system or the file system cannot (NFS, macOS)."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    names = (os.fsencode(path) for path in (one, other))
    return bool(rename(_AT_FDCWD, next(names), _AT_FDCWD, next(names), _RENAME_EXCHANGE) == 0)


@contextlib.contextmanager
def refusal_as_error(path: Path | str) -> Iterator[None]:
    """Turn what a system refuses to write or read into a `PqmError`: as `no_space_as_error`, and for lack of rights.

    Args:
        path: what is being written, for the messages; of a refused right, the system often names the file itself.
    """
    with no_space_as_error(path):
        try:
            yield
        except PqmError:
            raise
        except Exception as error:
            number = _refused_right(error)
            if number is None:
                raise
            named = getattr(error, "filename", None)
            named = named if isinstance(named, str | Path) else path
            place = path if Path(named).parent == Path(path).parent else named
            remedy = "mount it for writing" if number == errno.EROFS else "correct its access rights"
            raise PqmError(f"{place}: {os.strerror(number).lower()}; {remedy}, or use another folder") from error


def _refused_right(error: Exception) -> int | None:
    """The number of the error if access was refused: safetensors, which is not written in Python, says so in words."""
    if isinstance(error, OSError) and error.errno in _REFUSED:
        return error.errno
    said = str(error)
    return next((number for number in _REFUSED if f"{os.strerror(number)} (os error {number})" in said), None)


@contextlib.contextmanager
def no_space_as_error(path: Path | str) -> Iterator[None]:
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
        PqmError: if another process holds it, or it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        with refusal_as_error(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("a+", encoding="utf-8"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise PqmError(
                f"{path.parent}: process {file.read().strip() or 'unknown'} is at work on it; "
                f"wait for it to end, or choose {instead}"
            ) from None
        with refusal_as_error(path):
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
        yield


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 text file, see `whole_file`.

    Raises:
        PqmError: if the text names a file whose name is not UTF-8.
    """
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        start = max(0, error.start - 40)
        raise PqmError(f"{path} cannot hold {text[start : error.end]!r}, which is not UTF-8: rename the file") from None
    with whole_file(path) as scratch:
        scratch.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write a whole JSON file, see `whole_file`; keys keep their order."""
    write_text(path, json_text(value, indent=2) + "\n")


def json_text(value: Any, indent: int | None = None, encoding: str = "utf-8") -> str:
    """JSON that `encoding` can write: what it lacks, and bytes of file names that are not UTF-8, as escapes of JSON."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent)
    return text


def utf8_name(path: Path) -> Path:
    """Return `path` if its name is UTF-8, which safetensors and other libraries insist on.

    Raises:
        PqmError: if it is not.
    """
    if any("\udc80" <= char <= "\udcff" for char in str(path.absolute())):
        raise PqmError(f"{path}: the name of a model's folder must be UTF-8: rename it, or a folder above it")
    return path


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        PqmError: if it is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise PqmError(f"{path} is missing: run the stage that writes it") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise PqmError(f"{path} is not JSON ({error}): delete it and run the stage that writes it again") from None


def decode_text(data: bytes, path: Path) -> str:
    """The text of a UTF-8 file's bytes; marks of byte order, as Windows and joined files have them, are skipped.

    Raises:
        PqmError: if it is UTF-16 or anything else that is not UTF-8, with the remedy.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data[:4]:
        raise PqmError(f"{path} is not UTF-8 (UTF-16 by its first bytes): convert it with iconv -f UTF-16 -t UTF-8")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PqmError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}): convert it with iconv") from None
    return text.removeprefix("\ufeff").replace("\n\ufeff", "\n")


def sha256(path: Path) -> str:
    """Hash of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
