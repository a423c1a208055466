"""What Slurm's queue says of the jobs of one name; accounting (sacct) is not needed."""

import subprocess
import time
from dataclasses import dataclass

from pqm_plugin.errors import PqmError

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
