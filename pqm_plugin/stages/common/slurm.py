"""Run jobs as Slurm job arrays through submitit, over a shared file system."""

import logging
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pqm_plugin.errors import PqmError
from pqm_plugin.stages.common.jobs import Failure, Job, Progress, environment_of_python, execute, last_lines

ACTIVE = frozenset(
    "PENDING RUNNING SUSPENDED COMPLETING CONFIGURING REQUEUED REQUEUE_FED REQUEUE_HOLD RESIZING SIGNALING STAGE_OUT "
    "SPECIAL_EXIT STOPPED RESV_DEL_HOLD".split()
)
"""States of a job that has not ended, or will start again."""
_ANSWER_S = 60
_CANCEL_S = 120


@dataclass(frozen=True)
class Task:
    """One job as squeue shows it; the reason says why it waits or how it ended."""

    state: str
    reason: str


@dataclass(frozen=True)
class Queue:
    """The jobs that were submitted under a name."""

    name: str

    def tasks(self) -> dict[str, Task] | None:
        """By number, such as 12_3; also those that ended a short while ago. None if the scheduler does not answer."""
        form = "%i|%T|%R"
        answer = self._call(
            "squeue", "--noheader", "--array", "--states=all", f"--format={form}", f"--name={self.name}"
        )
        if answer is None:
            return None
        rows = [line.strip().split("|", 2) for line in answer.splitlines() if line.count("|") >= 2]
        return {number: Task(state, reason.strip("()")) for number, state, reason in rows}

    def cancel_and_wait(self) -> bool:
        """Cancel what has not ended and wait until it has; whether there was any.

        Raises:
            PqmError: if it does not end, or the scheduler does not answer.
        """
        end, found = time.monotonic() + _CANCEL_S, False
        while time.monotonic() < end:
            tasks = self.tasks()
            if tasks is not None:
                if not any(task.state in ACTIVE for task in tasks.values()):
                    return found
                found = True
                self._call("scancel", f"--name={self.name}")
            time.sleep(1)
        raise PqmError(f"Slurm does not end the jobs {self.name}: run `scancel --name={self.name}`, then this again")

    def _call(self, *command: str) -> str | None:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_S, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout if done.returncode == 0 else None


_POLL_S = 2.0
_LARGEST_ARRAY = 1000
"""Slurm's own limit (MaxArraySize) is 1001 unless its administrator set another."""
_LATE_S = {"COMPLETED": 60.0, "": 60.0}
"""How long a shared file system may take to show what a job that ended left, by the job's state."""
_LATE_ELSE_S = 5.0


@dataclass(frozen=True)
class SlurmOptions:
    """What jobs ask of the cluster; empty is the cluster's default. `extra`: options of sbatch without dashes."""

    partition: str = ""
    time: str = "12:00:00"
    mem: str = ""
    extra: str = ""
    gpus: int = 0

    def as_sbatch(self) -> dict[str, Any]:
        """By the long names of sbatch.

        Raises:
            PqmError: for an option that is not NAME=VALUE or NAME, or one that is ours to set.
        """
        named = {"partition": self.partition, "time": self.time or "0", "mem": self.mem}
        found: dict[str, Any] = {name: value for name, value in named.items() if value}
        if self.gpus:
            found["gpus-per-node"] = self.gpus
        for word in self.extra.split():
            name, equals, value = word.lstrip("-").partition("=")
            if not name.replace("-", "").isalnum() or name in {"array", "job-name", "output", "error"}:
                raise PqmError(f"--slurm_extra {word!r}: give options of sbatch such as 'account=me qos=long'")
            found[name] = value if equals else True
        return found


class RefusedError(PqmError):
    """Slurm took none of the jobs."""


class Slurm:
    """Arrays of jobs, each with a folder below `root` until it ended well; they are cancelled when the recipe ends."""

    def __init__(self, root: Path, options: SlurmOptions) -> None:
        self._root = root.absolute()
        self._options = options

    def run(self, jobs: Sequence[Job], n_parallel: int, progress: Progress, *, again: bool) -> list[Failure]:
        """Run all jobs, at most `n_parallel` at a time, and return those that failed."""
        _submitit()
        self._end_earlier()
        failures: list[Failure] = []
        for first in range(0, len(jobs), _LARGEST_ARRAY):
            failures += self._run_array(jobs[first : first + _LARGEST_ARRAY], n_parallel, progress, again)
        return failures

    def _end_earlier(self) -> None:
        """Cancel what a recipe that was killed left on the cluster: two must not write into one folder."""
        for folder in sorted(self._root.iterdir()) if self._root.is_dir() else ():
            queue = Queue(folder.name)
            if queue.cancel_and_wait():
                logging.info("jobs %s of an earlier run were still on the cluster and are cancelled", folder.name)
            shutil.rmtree(folder, ignore_errors=True)

    def _run_array(self, jobs: Sequence[Job], n_parallel: int, progress: Progress, again: bool) -> list[Failure]:
        # The folder, and so the name, is there before the jobs are, so that no job can be lost from sight.
        folder = self._root / f"pqm-{progress.label}-{secrets.token_hex(4)}"
        folder.mkdir(parents=True)
        queue = Queue(folder.name)
        try:
            submitted = self._submit(folder, jobs, n_parallel, again)
            failures = _Watch(dict(zip(submitted, jobs, strict=True)), folder, queue, progress).until_all_ended()
        except BaseException as error:
            # Ctrl-C among them.
            if not isinstance(error, RefusedError):
                queue.cancel_and_wait()
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if not failures:
            shutil.rmtree(folder, ignore_errors=True)
        return failures

    def _submit(self, folder: Path, jobs: Sequence[Job], n_parallel: int, again: bool) -> list[str]:
        """The numbers that Slurm gave the jobs."""
        submitit = _submitit()
        options = {"cpus-per-task": 1, **self._options.as_sbatch()}
        try:
            executor = submitit.SlurmExecutor(folder)
            executor.update_parameters(
                job_name=folder.name,
                array_parallelism=n_parallel,
                setup=[f"export {name}={shlex.quote(value)}" for name, value in environment_of_python().items()],
                use_srun=False,
                additional_parameters=options,
            )
            with submitit.helpers.clean_env():
                submitted = executor.map_array(run_on_node, list(jobs), [again] * len(jobs))
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError, OSError) as error:
            said = " ".join(str(error).split())
            raise PqmError(
                f"Slurm does not take the jobs: {said}: correct --slurm_partition, _time, _mem or _extra"
            ) from None
        return [job.job_id for job in submitted]


def _submitit() -> Any:
    try:
        import submitit
        import submitit.helpers
    except ImportError:
        raise PqmError("--cmd_backend slurm needs submitit: pip install 'submitit>=1.5,<2'") from None
    if shutil.which("sbatch") is None:
        raise PqmError("--cmd_backend slurm: there is no sbatch here; run on a machine from which jobs are submitted")
    return submitit


def run_on_node(job: Job, again: bool) -> str:
    """Inside a job of the cluster, see `execute`."""
    # submitit ignores it, and Slurm then waits half a minute before it kills a job that is cancelled.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    again = again or int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0
    number, node = (os.environ.get(name, "?") for name in ("SLURM_JOB_ID", "SLURMD_NODENAME"))
    return execute(job, again=again, where=f"process {os.getpid()}, Slurm's job {number} on {node}")


class _Watch:
    """The jobs of an array by their numbers, until all have ended."""

    def __init__(self, jobs: Mapping[str, Job], folder: Path, queue: Queue, progress: Progress) -> None:
        self._left = dict(jobs)
        self._folder = folder
        self._queue = queue
        self._progress = progress
        self._ended_at: dict[str, float] = {}

    def until_all_ended(self) -> list[Failure]:
        failures: list[Failure] = []
        while self._left:
            time.sleep(_POLL_S)
            # In this order: a job that ends between the two is seen as running, and again the next time.
            tasks = self._queue.tasks()
            results = {entry.name for entry in os.scandir(self._folder) if entry.name.endswith("_result.pkl")}
            for number, job in list(self._left.items()):
                ended, failure = self._look(number, job, f"{number}_0_result.pkl" in results, tasks)
                failures += [failure] if failure else []
                self._progress.show(job, ended=ended and not failure)
                if ended:
                    del self._left[number]
            self._progress.waits_for(_waits_for(tasks, self._left))
        return failures

    def _look(
        self, number: str, job: Job, has_result: bool, tasks: Mapping[str, Task] | None
    ) -> tuple[bool, Failure | None]:
        """Whether a job has ended, and how it failed if it did."""
        if has_result:
            return True, _failure(self._folder, number, job)
        if tasks is None:
            return False, None
        state = tasks[number].state if number in tasks else ""
        if state in ACTIVE:
            self._ended_at.pop(number, None)
            return False, None
        since = self._ended_at.setdefault(number, time.monotonic())
        if time.monotonic() - since < _LATE_S.get(state, _LATE_ELSE_S):
            return False, None
        said = last_lines(self._folder / f"{number}_0_log.err", self._folder / f"{number}_0_log.out")
        why = f"Slurm says {state}" if state else "gone from Slurm's queue"
        return True, Failure(job, f"{why}: {said[-1].strip()}" if said else f"{why}, and the job left no result")


def _failure(folder: Path, number: str, job: Job) -> Failure | None:
    """What a job says of itself."""
    submitit = _submitit()
    try:
        error = submitit.SlurmJob(folder, number).result()
    except submitit.core.utils.FailedJobError as failed:
        lines = last_lines(job.log) or str(failed).strip().splitlines()
        return Failure(job, lines[-1].strip())
    return Failure(job, error, is_users=True) if error else None


def _waits_for(tasks: Mapping[str, Task] | None, left: Mapping[str, Job]) -> str:
    """Why nothing runs, if nothing runs."""
    if tasks is None:
        return "Slurm does not answer; waiting for it"
    here = [tasks[number] for number in left if number in tasks]
    waiting = [task for task in here if task.state == "PENDING"]
    if not waiting or len(waiting) < len(here):
        return ""
    reasons = sorted({task.reason for task in waiting})
    return f"{len(waiting)} jobs wait: {', '.join(reasons)}"
