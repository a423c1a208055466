"""Show how far ESPnet's trainer is, from the log that it writes."""

import re
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from tqdm import tqdm

_BATCHES = re.compile(r"\[train\] mini-batch sizes summary: N-batch=(\d+)")
_EPOCH = re.compile(r" (\d+)/(\d+)epoch started")
_STEP = re.compile(r" (\d+)epoch:train:\d+-(\d+)batch: ")
_RESULT = re.compile(
    r" (\d+)epoch results: .*?\[train\].*? loss=([\d.naif]+).*\[valid\].*? acc=([\d.naif]+).*? loss=([\d.naif]+)"
)
_POLL_S = 0.5


class TrainingProgress:
    """A bar over all batches of all epochs, with the time left, and one line for each epoch.

    Reads what is appended to `log` from now on.
    """

    def __init__(self, log: Path) -> None:
        self.last_line = "no word in its log"
        self._log = log.open(encoding="utf-8", errors="replace")
        self._log.seek(0, 2)
        self._rest = ""
        self._bar: tqdm | None = None
        self._n_batches = 0
        self._n_epochs = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        self._log.close()

    def follow(self, process: subprocess.Popen) -> None:
        """Show the progress of `process` until it ends."""
        while True:
            try:
                process.wait(_POLL_S)
            except subprocess.TimeoutExpired:
                self._read()
                continue
            self._read()
            return

    def _read(self) -> None:
        *lines, self._rest = (self._rest + self._log.read()).split("\n")
        for line in lines:
            if line.strip():
                self.last_line = line.strip()[-300:]
            self._show(line)

    def _show(self, line: str) -> None:
        if found := _BATCHES.search(line):
            self._n_batches = int(found[1])
        elif found := _EPOCH.search(line):
            self._start_epoch(int(found[1]), int(found[2]))
        elif found := _STEP.search(line):
            self._move_to(int(found[1]) - 1, int(found[2]))
        elif found := _RESULT.search(line):
            self._move_to(int(found[1]), 0)
            epoch, train_loss, dev_accuracy, dev_loss = found.groups()
            tqdm.write(
                f"epoch {epoch}/{self._n_epochs}: loss {train_loss}, dev loss {dev_loss}, dev accuracy {dev_accuracy}"
            )

    def _start_epoch(self, epoch: int, n_epochs: int) -> None:
        self._n_epochs = n_epochs
        if self._bar is None:
            done = (epoch - 1) * self._n_batches
            self._bar = tqdm(
                total=n_epochs * self._n_batches, initial=done, desc="training", unit="batch", mininterval=2
            )

    def _move_to(self, n_epochs_done: int, n_batches_done: int) -> None:
        if self._bar is not None:
            self._bar.update(n_epochs_done * self._n_batches + n_batches_done - self._bar.n)
