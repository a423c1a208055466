"""Run jobs in parallel, here or on a cluster; a failed job is named with its log and does not stop the others."""

import contextlib
import heapq
import io
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

from pqm_plugin.errors import PqmError
from pqm_plugin.files import refusal_as_error
from pqm_plugin.models.families import libraries
from pqm_plugin.processes import end_with, start_log, workers
from pqm_plugin.progress import Bar
from pqm_plugin.stages.recipe import Recipe

_ADAPTERS = "pqm_plugin.adapters.library:PeftModel"
_STAGES = ("pqm_plugin.stages.adapt", "pqm_plugin.stages.decode")
EVERYTHING = (*_STAGES, *libraries(), _ADAPTERS)
"""Of every stage and family."""
N_LAST_LINES = 5


@dataclass(frozen=True)
class Job:
    """A function of a module, called with `arguments` in a process of its own whose output goes to `log`.

    `steps` says how many things it will do; every `mark` in the file `counter` is one of them done. A job is tried
    twice, so its function goes on where an earlier try was killed.
    """

    name: str
    function: Callable[..., None]
    arguments: tuple[Any, ...]
    log: Path
    steps: int = 1
    counter: Path | None = None
    mark: bytes = b"\n"

    def steps_done(self) -> int:
        """How far it is, as its counter says."""
        if self.counter is None or not self.counter.exists():
            return 0
        return min(self.steps, self.counter.read_bytes().count(self.mark))


@dataclass(frozen=True)
class Failure:
    """A job that failed; `is_users` says that the user has to correct something, so another try would fail too."""

    job: Job
    reason: str
    is_users: bool = False

    def __str__(self) -> str:
        return f"{self.job.name}: {self.reason} (see {self.job.log})"


class Progress:
    """The bar over all jobs of a stage: steps that are done, the time that is left, what jobs wait for."""

    def __init__(self, jobs: Sequence[Job], label: str) -> None:
        self.label = label
        self._bar = Bar(total=sum(job.steps for job in jobs), desc=label, unit="step")
        self._counted: dict[Path, int] = {}
        self._note = ""

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, job: Job, *, ended: bool = False) -> None:
        """Take in how far a job is; `ended` that it ended well."""
        done = job.steps if ended else job.steps_done()
        self._bar.update(done - self._counted.get(job.log, 0))
        self._counted[job.log] = done

    def waits_for(self, note: str) -> None:
        """Say once what the jobs wait for; nothing, when they run."""
        if note != self._note:
            self._bar.set_postfix_str(note)
            logging.info("%s: %s", self.label, note or "jobs run again")
        self._note = note


class Backend(Protocol):
    """Where jobs run."""

    def run(self, jobs: Sequence[Job], n_parallel: int, progress: Progress, *, again: bool) -> list[Failure]:
        """Run all jobs, at most `n_parallel` at a time, and return those that failed; `again`: for the second time."""


def execute(job: Job, *, again: bool, where: str) -> str:
    """Inside the process of a job: run it, return what the user has to correct, or else nothing.

    Anything but a `PqmError` is raised, after it was written to the log.
    """
    try:
        with refusal_as_error(job.log):
            job.log.parent.mkdir(parents=True, exist_ok=True)
            _log_to(job.log, again)
            os.environ["OMP_NUM_THREADS"] = "1"
            logging.info("job %s: %s", job.name, where)
            job.function(*job.arguments)
    except PqmError as error:
        # A full disk takes no more of the log, so the reason goes another way too.
        with contextlib.suppress(OSError):
            print(error)
        return str(error)
    return ""


def _log_to(path: Path, again: bool) -> None:
    """Send all that this process says to the file `path`, after what an earlier try left there."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | (os.O_APPEND if again else os.O_TRUNC), 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", 0, closefd=False), write_through=True)
    sys.stderr = sys.stdout
    start_log()


def last_lines(*logs: Path) -> list[str]:
    """The last lines of the first of some logs that says anything."""
    for log in logs:
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        if lines := [line.rstrip() for line in text.splitlines() if line.strip()]:
            return lines[-N_LAST_LINES:]
    return []


def environment_of_python() -> Mapping[str, str]:
    """What a Python elsewhere needs to be set to run the code that this one runs."""
    root = Path(__file__).resolve().parents[3]
    path = [str(root), *(entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry)]
    return {"PYTHONPATH": os.pathsep.join(dict.fromkeys(path)), "OMP_NUM_THREADS": "1"}


_POLL_S = 0.2
"""How often progress is shown while no job ends."""


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
            wait([process.sentinel for _, process, _ in running], _POLL_S)
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
    """A running process, and where it says what the user has to correct."""
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
        return Failure(job, error, is_users=True)
    if exitcode < 0:
        return Failure(job, f"killed by signal {-exitcode}{', perhaps for memory' if exitcode == -9 else ''}")
    lines = last_lines(job.log)
    if exitcode != 1 or not lines:
        return Failure(job, f"ended with exit status {exitcode}")
    # An exception: what Python says last.
    return Failure(job, lines[-1].strip())


_N_NAMED = 5


def backend_of(recipe: Recipe) -> Backend:
    """Where the jobs of a recipe run: `--cmd_backend`."""
    if recipe.cmd_backend == "slurm":
        from pqm_plugin.stages.common.slurm import Slurm, SlurmOptions

        gpus = 1 if recipe.ngpu else 0
        options = SlurmOptions(recipe.slurm_partition, recipe.slurm_time, recipe.slurm_mem, recipe.slurm_extra, gpus)
        return Slurm(recipe.packed_dir / "slurm", options)
    return Local()


def run_jobs(jobs: Sequence[Job], n_parallel: int, label: str, backend: Backend | None = None) -> None:
    """Run all jobs, at most `n_parallel` at a time, and show how many steps are done and how long the rest takes.

    A job that fails is tried once more when all others have ended, unless its error is one that the user can mend.

    Raises:
        PqmError: after all have ended, if some failed: each with the last line of its log.
    """
    if not jobs:
        return
    backend = backend or Local()
    with Progress(jobs, label) as progress:
        failures = backend.run(jobs, n_parallel, progress, again=False)
        again = [failure.job for failure in failures if not failure.is_users]
        for failure in failures:
            _name(label, failure, "no second try" if failure.is_users else "trying it once more")
        if again:
            failures = [failure for failure in failures if failure.is_users]
            second = backend.run(again, n_parallel, progress, again=True)
            for failure in second:
                _name(label, failure, "failed twice")
            failures += second
    if failures:
        named = "; ".join(str(failure) for failure in failures[:_N_NAMED])
        more = f"; and {len(failures) - _N_NAMED} more, see above" if len(failures) > _N_NAMED else ""
        raise PqmError(f"{label}: {len(failures)} of {len(jobs)} jobs failed, the others are done: {named}{more}")


def _name(label: str, failure: Failure, then: str) -> None:
    lines = last_lines(failure.job.log)
    ends = "".join(f"\n    {line}" for line in lines) or " nothing"
    logging.warning("%s: %s; %s. The log ends with%s", label, failure, then, ends)


def n_shares(n_speakers: int, n_parallel: int, speakers_per_job: int) -> int:
    """How many jobs: enough for all processes and none of more than `speakers_per_job` speakers, none without any."""
    return min(n_speakers, max(n_parallel, -(-n_speakers // speakers_per_job)))


def shares(work: Mapping[str, float], n: int) -> list[list[str]]:
    """Deal speakers out to `n` jobs so that every one has about as much work as the others.

    No job gets more speakers than another and one more. The same `work` by speaker gives the same shares.
    """
    n = min(n, len(work))
    dealt: list[list[str]] = [[] for _ in range(n)]
    most = -(-len(work) // n) if n else 0
    least_work = [(0.0, place) for place in range(n)]
    for speaker in sorted(work, key=lambda name: (-work[name], name)):
        done, place = heapq.heappop(least_work)
        dealt[place].append(speaker)
        if len(dealt[place]) < most:
            heapq.heappush(least_work, (done + work[speaker], place))
    return dealt


def preloaded(stage: str, recipe: Recipe) -> tuple[str, ...]:
    """Modules for the jobs of one stage and of the model that is there now; for all families if none is yet.

    What decodes has no use for peft, which takes as long as all the rest.
    """
    learns = () if stage == "decode" else (_ADAPTERS,)
    return (*_STAGES, *libraries(*_folders(recipe)), *learns)


def _folders(recipe: Recipe) -> tuple[Path, ...]:
    return (recipe.packed_dir, recipe.base_dir) if recipe.base else ()
