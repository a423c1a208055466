"""Faults that are real: a process killed at a chosen write, or without the rights of root."""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

from pqm_plugin.errors import PqmError

PAGE_BYTES = 4096
N_KILLS = int(os.environ.get("PQM_KILLS", "3"))
"""Instants at which each step is killed, spread over all of its writes."""
N_FUZZ = int(os.environ.get("PQM_FUZZ", "1"))
"""How many times as many broken inputs are tried as in a usual run; .ci/run tries ten times as many."""
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "os.truncate")
_CAPABILITY_VERSION_3 = 0x20080522


@dataclass(frozen=True)
class Ended:
    """How a process ended: the signal that killed it or 0, the user's error or nothing, and how often it wrote."""

    signal: int
    said: str
    n_writes: int


@dataclass(frozen=True)
class Disk:
    """A file system of its own, so small that it is soon full."""

    folder: Path

    def fill(self, left_bytes: int = 0) -> None:
        """Take all space but `left_bytes`, a multiple of the page size."""
        with (self.folder / "filler").open("wb", buffering=0) as file:
            with contextlib.suppress(OSError):
                while file.write(bytes(PAGE_BYTES)):
                    pass
            file.truncate(file.tell() - left_bytes)

    def take_all_names(self) -> None:
        """Leave space, but none for another file."""
        (self.folder / "filler").mkdir()
        with contextlib.suppress(OSError):
            for place in range(1000):
                (self.folder / "filler" / str(place)).touch()

    def free(self) -> None:
        """Give everything back."""
        filler = self.folder / "filler"
        if filler.is_dir():
            for path in filler.iterdir():
                path.unlink()
            filler.rmdir()
        else:
            filler.unlink()

    def used_bytes(self) -> int:
        """What its files take."""
        return shutil.disk_usage(self.folder).used

    def allow_writing(self, allowed: bool) -> None:
        """Mount it anew, for reading alone or not."""
        how = "remount,rw" if allowed else "remount,ro"
        subprocess.run(["mount", "-o", how, str(self.folder)], check=True)


@contextlib.contextmanager
def mounted(folder: Path, size: str, n_files: int) -> Iterator[Disk]:
    """Yield an empty small disk at `folder`; only root may mount one, and a container may forbid even that."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        _lacking("a small disk can only be mounted by root on Linux")
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes={n_files}", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode != 0:
        _lacking(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _lacking(reason: str) -> NoReturn:
    """Skip the test, or fail where `PQM_DISKS` says that small disks can be had."""
    if os.environ.get("PQM_DISKS"):
        pytest.fail(f"PQM_DISKS is set, but {reason}")
    pytest.skip(reason)


def tries(n: int) -> range:
    """Seeds of `n` broken inputs, or as many times more as `PQM_FUZZ` asks for."""
    return range(n * N_FUZZ)


def in_child(
    step: Callable[[], object], below: Path, *, kill_at: int = 0, before: Callable[[], object] = lambda: None
) -> Ended:
    """Run `step` in a process of its own and wait until it ends, see `started`."""
    return started(step, below, kill_at=kill_at, before=before)()


def started(
    step: Callable[[], object], below: Path, *, kill_at: int = 0, before: Callable[[], object] = lambda: None
) -> Callable[[], Ended]:
    """Run `step` in a process of its own, which shares this one's imports, and return what waits until it ends.

    Jobs of a recipe run inside it.

    Args:
        below: where writes are counted: files opened for writing, renamed, removed; folders made and removed.
        kill_at: number of the write just before which the process is killed with SIGKILL; 0 lets it live.
        before: called in that process first.
    """
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(out)
        _run(step, below, kill_at, before, into)
    os.close(into)

    def wait() -> Ended:
        with os.fdopen(out, encoding="utf-8") as file:
            told = file.read()
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            return Ended(os.WTERMSIG(status), "", kill_at)
        said, n_writes, unexpected = json.loads(told)
        assert not unexpected, unexpected
        return Ended(0, said, n_writes)

    return wait


def _run(step: Callable[[], object], below: Path, kill_at: int, before: Callable[[], object], into: int) -> None:
    """In the child: never return."""
    said, n_writes = "", 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal n_writes
        if _is_write(event, arguments, str(below)):
            n_writes += 1
            if n_writes == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        if "torch" in sys.modules:
            # Threads that compute are not forked along.
            sys.modules["torch"].set_num_threads(1)
        if "pqm_plugin.stages" in sys.modules:
            _run_jobs_here()
        before()
        sys.addaudithook(count)
        step()
    except PqmError as error:
        said = str(error)
    finally:
        told = n_writes
        unexpected = traceback.format_exc() if sys.exc_info()[0] else ""
        try:
            os.write(into, json.dumps([said, told, unexpected]).encode())
        finally:
            # Whatever happens, this process must not go on as a second run of the tests.
            os._exit(0)


def _is_write(event: str, arguments: tuple[Any, ...], below: str) -> bool:
    if event == "open":
        return str(arguments[0]).startswith(below) and bool(arguments[2] & _WRITES)
    if event == "ctypes.dlsym":
        return arguments[1] == "renameat2"
    # A name alone is one inside a folder that is being removed.
    return event in _CHANGES and (str(arguments[0]).startswith(below) or not os.path.isabs(str(arguments[0])))


def _run_jobs_here() -> None:
    """A fork server would import everything again, for every kill."""
    from pqm_plugin.stages.common.jobs import Local

    def run(self: Local, jobs: Any, n_parallel: int, progress: Any, *, again: bool) -> list[Any]:
        for job in jobs:
            job.function(*job.arguments)
        return []

    Local.run = run


def drop_rights() -> None:
    """Let this process keep to the modes of files, though it may be root's: all capabilities are given up."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        header, none = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
        if libc.capset(header, none) != 0:
            raise OSError(ctypes.get_errno(), "capset")


def kills(n_writes: int) -> list[int]:
    """Numbers of writes to be killed at: the first, the last, and some between, as `N_KILLS` says."""
    n = min(n_writes, N_KILLS)
    return sorted({1 + round(place * (n_writes - 1) / max(1, n - 1)) for place in range(n)})


def contents(folder: Path) -> dict[str, bytes]:
    """Bytes of every file that is a result: not locks, not logs."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != "log")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if not path.name.endswith(".lock")}


def put_back(folders: Sequence[Path], saved: Path) -> None:
    """Let folders be as they were saved below `saved`, times of change included; one that was not there goes."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
        if (saved / folder.name).exists():
            shutil.copytree(saved / folder.name, folder)


def forbid_writing(folder: Path) -> None:
    """Take the right to write from `folder` and all below it."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)


def allow_writing(folder: Path) -> None:
    """Give back what `forbid_writing` took."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
