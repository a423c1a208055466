"""What a job is, what runs inside its process, and how one is seen from outside."""

import contextlib
import io
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from pqm_plugin.errors import PqmError
from pqm_plugin.files import refusal_as_error
from pqm_plugin.processes import start_log

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
    """A job that did not end well; `mendable` says that the user can mend it, so that another try would fail too."""

    job: Job
    reason: str
    mendable: bool = False

    def __str__(self) -> str:
        return f"{self.job.name}: {self.reason} (see {self.job.log})"


class Progress:
    """The bar over all jobs of a stage: steps that are done, the time that is left, what jobs wait for."""

    def __init__(self, jobs: Sequence[Job], label: str) -> None:
        self.label = label
        self._bar = tqdm(total=sum(job.steps for job in jobs), desc=label, unit="step")
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
    """Inside the process of a job: run it, return what the user can mend, or else nothing.

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
    root = Path(__file__).resolve().parents[4]
    path = [str(root), *(entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry)]
    return {"PYTHONPATH": os.pathsep.join(dict.fromkeys(path)), "OMP_NUM_THREADS": "1"}
