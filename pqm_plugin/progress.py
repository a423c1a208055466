"""Progress of what takes longer than seconds: a bar on a terminal, a line for every tenth in a log file."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

_QUIET_S = 5.0
"""So long nothing is said in a file; what is done sooner leaves one line."""
_UNKNOWN_S = 60.0
"""How often something is said in a file where nobody knows how much there is to do."""


class Bar(tqdm):
    """tqdm's bar where standard error is a terminal; else a line after each tenth, with the time that is left.

    A bar redraws itself by a carriage return, and a file keeps every one of these.
    """

    def __init__(self, iterable: Iterable[Any] | None = None, **options: Any) -> None:
        """Begin; the options are tqdm's: `desc` names the job, and what ends within `delay` seconds is not shown."""
        stream = options.get("file") or sys.stderr
        self._in_lines = not stream.isatty()
        self._tenth, self._said_at = 0, 0.0
        super().__init__(iterable, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Show how far it is."""
        if not self._in_lines:
            super().display(msg, pos)
            return
        elapsed = self.format_dict["elapsed"]
        tenth = int(10 * self.n / self.total) if self.total else 0
        due = tenth > self._tenth if self.total else elapsed - self._said_at >= _UNKNOWN_S
        if due and elapsed - self._said_at >= _QUIET_S and self.n != self.total:
            self._tenth = tenth
            self._say(elapsed)

    def _say(self, elapsed: float) -> None:
        self._said_at = elapsed
        done = f"{100 * self.n / self.total:.0f} %, {self.n}/{self.total}" if self.total else f"{self.n}"
        rate = (self.n - self.initial) / elapsed if elapsed else 0
        left = f", {self.format_interval((self.total - self.n) / rate)} left" if self.total and rate else ""
        note = f", {self.postfix}" if self.postfix else ""
        name = self.desc.removesuffix(": ") if self.desc else "progress"
        self.fp.write(f"{name}: {done} {self.unit}, {self.format_interval(elapsed)} so far{left}{note}\n")
        self.fp.flush()

    def clear(self, *arguments: Any, **options: Any) -> None:
        """Make room on a terminal for other lines."""
        if not self._in_lines:
            super().clear(*arguments, **options)

    def close(self) -> None:
        """End; in a file one line says how much was done and how long it took."""
        if not self._in_lines or self.disable:
            super().close()
            return
        elapsed = self.format_dict["elapsed"]
        if elapsed >= self.delay:
            name = self.desc.removesuffix(": ") if self.desc else "progress"
            of = f"/{self.total}" if self.total else ""
            self.fp.write(f"{name}: {self.n}{of} {self.unit} done in {self.format_interval(elapsed)}\n")
            self.fp.flush()
        self.disable = True
        self._forgotten(self)

    @classmethod
    def _forgotten(cls, bar: "Bar") -> None:
        """What tqdm's own `close` does beside writing."""
        with cls.get_lock():
            cls._decr_instances(bar)  # type: ignore[attr-defined]
