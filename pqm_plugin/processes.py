"""Processes: logging, ending with the parent, workers, memory and cores."""

import codecs
import contextlib
import ctypes
import logging
import multiprocessing
import os
import re
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_M_MMAP_THRESHOLD = -3
_MMAP_THRESHOLD_BYTES = 2**17
_C = None if sys.platform == "win32" else ctypes.CDLL(None)
_CGROUP = Path("/sys/fs/cgroup")


def die_with_parent() -> None:
    """Ask the kernel to end this process when its parent ends, however that happens; a no-op outside Linux."""
    if sys.platform == "linux" and _C is not None:
        _C.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def end_with(pid: int) -> None:
    """End this process as soon as process `pid` ends, which need not be its parent: a fork server stands between.

    Without it, workers of a recipe that was killed with `kill -9` write on into the folder of the next run.
    """
    threading.Thread(target=_end_after, args=(pid,), daemon=True).start()


def _end_after(pid: int) -> None:
    try:
        if hasattr(os, "pidfd_open"):
            select.select([os.pidfd_open(pid)], [], [])
        else:
            while True:
                os.kill(pid, 0)
                time.sleep(0.5)
    except ProcessLookupError:
        pass
    os.kill(os.getpid(), signal.SIGKILL)


SHORT_SPIN = {"GOMP_SPINCOUNT": "1000"}
"""Environment in which idle OpenMP threads wait for some microseconds and then sleep.

By default they spin for milliseconds: where processes outnumber cores, a step then takes ten times as long. Not to spin
at all (OMP_WAIT_POLICY=PASSIVE) makes a training step on two idle cores half as long again.
"""


@contextlib.contextmanager
def freed_memory_returned(from_now_on: bool = False) -> Iterator[None]:
    """Give the system, at the end, what was freed within, such as what a model was read from; glibc only.

    Args:
        from_now_on: large blocks go back whenever they are freed, from the beginning of this on and after it. glibc
            does so from 128 KiB on until it has freed a larger block; then it keeps blocks of that size, and what lies
            between them while a model is opened and searched is half of the bytes that 4-bit weights save.
    """
    if from_now_on and _C is not None and hasattr(_C, "mallopt"):
        _C.mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
    try:
        yield
    finally:
        if _C is not None and hasattr(_C, "malloc_trim"):
            _C.malloc_trim(0)


def share_cores() -> None:
    """Let idle threads sleep soon; has an effect only before torch is imported."""
    for name, value in SHORT_SPIN.items():
        os.environ.setdefault(name, value)


RECIPE_PID = "PQM_RECIPE_PID"
"""Environment variable with the process that the server of workers, see `workers`, is to end with."""
WORKER_IMPORTS = "PQM_WORKER_IMPORTS"
"""Environment variable with what that server imports, separated by spaces."""


def workers(preload: Sequence[str]) -> BaseContext:
    """How processes for jobs are started: forked, on Linux, from a server that has done the heavy imports.

    Args:
        preload: what the server imports, see `imports.import_now`, if it does not run yet: this process has but one.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pqm_plugin.worker_imports"])
    os.environ[WORKER_IMPORTS] = " ".join(preload)
    os.environ[RECIPE_PID] = str(os.getpid())
    return context


def expect_workers(preload: Sequence[str]) -> None:
    """Let the server of `workers` start its imports, while this process does its own."""
    if sys.platform == "linux":
        workers(preload)
        forkserver.ensure_running()


def peak_rss_of(pid: int) -> int:
    """Largest resident memory of a running process since its program was loaded, in bytes; 0 where none tells."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, flags=re.M)
    return 1024 * int(found[1]) if found else 0


def free_memory_bytes() -> int:
    """Memory that is free for more processes, of the machine or of the container, in bytes; 0 where none tells."""
    found = []
    with contextlib.suppress(OSError, AttributeError, TypeError, ValueError):
        status = Path("/proc/meminfo").read_text(encoding="utf-8")
        found.append(1024 * int(re.search(r"^MemAvailable:\s+(\d+) kB", status, flags=re.M)[1]))  # type: ignore[index]
    with contextlib.suppress(OSError, ValueError):
        # Without a limit it says "max", which is not a number.
        limit, used = (int((_CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        found.append(max(0, limit - used))
    return min(found, default=0)


def n_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_ESCAPED = "pqm.escaped"


def tolerant_output() -> None:
    """Let standard output take any text: what its encoding lacks is written as an escape, and a warning says so once.

    Bytes of file names that are not text are written as the bytes that they are, as `ls` does.
    """
    told: list[str] = []

    def escaped(error: UnicodeError) -> tuple[str | bytes, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        part = error.object[error.start : error.end]
        if "\udc80" <= part[0] <= "\udcff":
            return bytes([ord(part[0]) - 0xDC00]), error.start + 1
        if not told:
            told.append(part)
            logging.warning(
                "standard output is %s, which cannot write %s: such characters are written as escapes; set "
                "PYTHONIOENCODING=utf-8, or give --out FOLDER where there is such an option",
                error.encoding,
                ascii(part),
            )
        return codecs.backslashreplace_errors(UnicodeEncodeError(error.encoding, part[:1], 0, 1, error.reason))[
            0
        ], error.start + 1

    codecs.register_error(_ESCAPED, escaped)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors=_ESCAPED)
    if hasattr(sys.stderr, "reconfigure"):
        sys.stderr.reconfigure(errors="backslashreplace")


def start_log() -> None:
    """Log to standard error: all that this package says, and of the libraries what they call an error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    # By the place of this very package: libraries may be installed below a folder of the same name.
    ours = os.path.join(os.path.dirname(__file__), "")
    handler.addFilter(lambda record: record.levelno >= logging.ERROR or record.pathname.startswith(ours))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
