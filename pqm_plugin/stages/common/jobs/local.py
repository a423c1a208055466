"""Jobs as processes of this machine."""

import os
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from pqm_plugin.processes import end_with, workers
from pqm_plugin.stages.common.jobs.job import Failure, Job, Progress, execute, last_lines
from pqm_plugin.stages.preloaded import EVERYTHING

_POLL_S = 0.2


class Local:
    """Processes of this machine, which end when the recipe ends."""

    def run(self, jobs: Sequence[Job], n_parallel: int, progress: Progress, *, again: bool) -> list[Failure]:
        """Run all jobs, at most `n_parallel` at a time, and return those that failed."""
        context = workers(EVERYTHING)
        waiting, failures = list(reversed(jobs)), list[Failure]()
        running: list[tuple[Job, BaseProcess, Connection]] = []
        while waiting or running:
            while waiting and len(running) < n_parallel:
                job = waiting.pop()
                running.append((job, *_start(context, job, again)))
            time.sleep(_POLL_S)
            for entry in list(running):
                job, process, said = entry
                progress.show(job, ended=process.exitcode == 0)
                if process.exitcode is not None:
                    process.join()
                    failures += [_failure(job, process.exitcode, said)] if process.exitcode else []
                    said.close()
                    running.remove(entry)
        return failures


def _start(context: Any, job: Job, again: bool) -> tuple[BaseProcess, Connection]:
    """A running process, and where it says what the user can mend."""
    said, say = context.Pipe(duplex=False)
    process: BaseProcess = context.Process(target=_run, args=(job, os.getpid(), say, again), name=job.name)
    process.start()
    say.close()
    return process, said


def _run(job: Job, parent: int, say: Connection, again: bool) -> None:
    """Inside the process of a job."""
    end_with(parent)
    if error := execute(job, again=again, where=f"process {os.getpid()} of {parent}"):
        say.send(error)
        sys.exit(1)


def _failure(job: Job, exitcode: int, said: Connection) -> Failure:
    """Why a job failed: what it said, the signal that killed it, or the last line of its log."""
    try:
        error = str(said.recv()) if said.poll() else ""
    except EOFError:
        error = ""
    if error:
        return Failure(job, error, mendable=True)
    if exitcode < 0:
        return Failure(job, f"killed by signal {-exitcode}{', perhaps for memory' if exitcode == -9 else ''}")
    lines = last_lines(job.log)
    if exitcode != 1 or not lines:
        return Failure(job, f"ended with exit status {exitcode}")
    # An exception: what Python says last.
    return Failure(job, lines[-1].strip())
