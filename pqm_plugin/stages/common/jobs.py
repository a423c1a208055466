"""Run jobs in parallel processes; one that fails is named with its log and does not take the others along."""

import contextlib
import io
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pqm_plugin.errors import PqmError
from pqm_plugin.files import no_space_as_error
from pqm_plugin.processes import end_with, start_log

_PRELOAD = ["pqm_plugin.models.families"]


@dataclass(frozen=True)
class Job:
    """A function of a module, called with `arguments` in a process of its own whose output goes to `log`.

    `steps` says how many things it will do; every `mark` in the file `counter` is one of them done.
    """

    name: str
    function: Callable[..., None]
    arguments: tuple[Any, ...]
    log: Path
    steps: int = 1
    counter: Path | None = None
    mark: bytes = b"\n"


def run_jobs(jobs: Sequence[Job], n_parallel: int, label: str) -> None:
    """Run all jobs, at most `n_parallel` at a time, and show how many steps are done and how long the rest takes.

    Raises:
        PqmError: after all have ended, if some failed: each with the last line of its log.
    """
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    if sys.platform == "linux":
        # The heavy imports are done once, then forked.
        context.set_forkserver_preload(_PRELOAD)
    waiting, running, failed = list(jobs), dict[str, tuple[Job, BaseProcess, Connection]](), list[str]()
    with tqdm(total=sum(job.steps for job in jobs), desc=label, unit="step") as bar:
        counted = dict.fromkeys((job.name for job in jobs), 0)
        while waiting or running:
            while waiting and len(running) < n_parallel:
                job = waiting.pop(0)
                running[job.name] = (job, *_start(context, job))
            time.sleep(0.2)
            for name, (job, process, failure) in list(running.items()):
                done = job.steps if process.exitcode == 0 else _count(job)
                bar.update(done - counted[name])
                counted[name] = done
                if process.exitcode is not None:
                    process.join()
                    failed += [_reason(job, failure)] if process.exitcode else []
                    failure.close()
                    del running[name]
    if failed:
        raise PqmError(f"{label}: {len(failed)} of {len(jobs)} jobs failed, the others are done: {'; '.join(failed)}")


def _start(context: Any, job: Job) -> tuple[BaseProcess, Connection]:
    """A running process, and where it says why it failed."""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    failure, send = context.Pipe(duplex=False)
    process: BaseProcess = context.Process(target=_run, args=(job, os.getpid(), send), name=job.name)
    process.start()
    send.close()
    return process, failure


def _run(job: Job, parent: int, failure: Connection) -> None:
    """Inside the process of a job."""
    end_with(parent)
    try:
        with no_space_as_error(job.log):
            _log_to(job.log)
            os.environ["OMP_NUM_THREADS"] = "1"
            logging.info("job %s: process %d of %d", job.name, os.getpid(), parent)
            job.function(*job.arguments)
    except PqmError as error:
        # A full disk takes no more of the log, so the reason goes another way too.
        failure.send(str(error))
        with contextlib.suppress(OSError):
            print(error)
        sys.exit(1)


def _log_to(path: Path) -> None:
    """Send all that this process says to the file `path`."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", 0, closefd=False), write_through=True)
    sys.stderr = sys.stdout
    start_log()


def _reason(job: Job, failure: Connection) -> str:
    """Why a job failed: what it sent, or else the last line of its log."""
    try:
        sent = str(failure.recv()) if failure.poll() else ""
    except EOFError:
        sent = ""
    return f"{job.name}: {sent or _last_line(job.log)} (see {job.log})"


def _count(job: Job) -> int:
    if job.counter is None or not job.counter.exists():
        return 0
    return min(job.steps, job.counter.read_bytes().count(job.mark))


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1].strip() if lines else "ended without a word, perhaps killed for memory"
