"""Progress: one bar on a terminal, and in a log file few lines."""

import contextlib
import io
import os
import pty

import pytest

from pqm_plugin import progress
from pqm_plugin.progress import Bar


class Clock:
    """A clock that goes on by `step_s` whenever something is done."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("tqdm.std.time", made)
    monkeypatch.setattr(Bar, "monitor_interval", 0)
    return made


def run(clock: Clock, n: int, step_s: float, total: int | None, **options: float) -> list[str]:
    """The lines that a job of `n` steps leaves in a file."""
    file = io.StringIO()
    with Bar(total=total, desc="adapt", unit="step", file=file, mininterval=0, miniters=1, **options) as bar:
        for _ in range(n):
            clock.now += step_s
            bar.update()
    assert "\r" not in file.getvalue()
    return file.getvalue().splitlines()


def test_a_file_gets_a_line_for_each_tenth_with_the_time_that_is_left(clock):
    lines = run(clock, 200, 1.0, 200)

    assert len(lines) == 10
    assert lines[0] == "adapt: 10 %, 20/200 step, 00:20 so far, 03:00 left"
    assert lines[-1] == "adapt: 200/200 step done in 03:20"


def test_what_is_done_within_seconds_leaves_one_line(clock):
    assert run(clock, 200, 0.011, 200) == ["adapt: 200/200 step done in 00:02"]


def test_what_is_quick_as_a_rule_is_shown_only_when_it_takes_long(clock):
    assert run(clock, 200, 0.011, 200, delay=5) == []
    assert run(clock, 200, 0.1, 200, delay=5)[-1] == "adapt: 200/200 step done in 00:20"


def test_a_file_gets_a_line_a_minute_where_nobody_knows_how_much_there_is(clock):
    lines = run(clock, 180, 1.0, None)

    assert lines[0] == "adapt: 60 step, 01:00 so far"
    assert len(lines) in (3, 4) and lines[-1] == "adapt: 180 step done in 03:00"


def test_lines_between_do_not_break_it_and_a_bar_that_is_off_says_nothing(clock, capsys):
    file = io.StringIO()
    with Bar(total=2, desc="adapt", file=file) as bar:
        Bar.write("epoch 1")
        bar.update(2)
    with Bar(total=2, file=file, disable=True) as bar:
        bar.update(2)

    assert file.getvalue() == "adapt: 2/2 it done in 00:00\n"
    assert capsys.readouterr().out == "epoch 1\n"


def test_a_terminal_gets_a_bar(clock):
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal, Bar(total=2, desc="adapt", file=terminal) as bar:
        bar.update(2)

    shown = ""
    with contextlib.suppress(OSError):  # what the end of a terminal is
        while "2/2" not in shown:
            shown += os.read(ours, 10_000).decode()
    os.close(ours)
    assert "\r" in shown and "2/2" in shown


def test_everything_that_is_long_is_shown_by_it():
    root = os.path.dirname(progress.__file__)
    for folder, _, names in os.walk(root):
        for name in names:
            if name.endswith(".py") and name != "progress.py":
                with open(os.path.join(folder, name), encoding="utf-8") as file:
                    assert "import tqdm" not in file.read(), name
