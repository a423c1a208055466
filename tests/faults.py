"""Faults that are real: a process that is killed at a chosen write, or that has no rights but those of a file's owner."""

import ctypes
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pqm_plugin.errors import PqmError

N_KILLS = int(os.environ.get("PQM_KILLS", "3"))
"""Instants at which each step is killed, spread over all of its writes."""
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "os.truncate")
_CAPABILITY_VERSION_3 = 0x20080522


@dataclass(frozen=True)
class Ended:
    """How a process ended: the signal that killed it or 0, the user's error or nothing, and how often it wrote."""

    signal: int
    said: str
    n_writes: int


def in_child(
    step: Callable[[], object], below: Path, *, kill_at: int = 0, before: Callable[[], object] = lambda: None
) -> Ended:
    """Run `step` in a process of its own, which shares this one's imports; jobs of a recipe run inside it.

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
    with os.fdopen(out, encoding="utf-8") as file:
        told = file.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return Ended(os.WTERMSIG(status), "", kill_at)
    said, n_writes, unexpected = json.loads(told)
    assert not unexpected, unexpected
    return Ended(0, said, n_writes)


def _run(step: Callable[[], object], below: Path, kill_at: int, before: Callable[[], object], into: int) -> None:
    """In the child: never return."""
    said, unexpected, n_writes = "", "", 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal n_writes
        if _is_write(event, arguments, str(below)):
            n_writes += 1
            if n_writes == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        import torch

        torch.set_num_threads(1)
        _run_jobs_here()
        before()
        sys.addaudithook(count)
        step()
    except PqmError as error:
        said = str(error)
    except BaseException:
        unexpected = traceback.format_exc()
    told = n_writes
    os.write(into, json.dumps([said, told, unexpected]).encode())
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
    from pqm_plugin.stages.common.jobs.local import Local

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
