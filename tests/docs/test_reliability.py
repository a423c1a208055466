"""docs/reliability.md: every fault of the list has its row, and every row a test that is there."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
ROWS = [
    [field.strip() for field in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and "---" not in line and not line.startswith("| fault |")
]
FAULTS = [
    "`kill -9` in any of the eight stages",
    "`kill -9` in `pqm enroll`",
    "disk full",
    "read-only folder",
    "two processes on one experiment folder",
    "a clock set back",
    *("corrupt", "truncated", "empty", "silent", "clipped", "hour-long", "non-audio"),
    *("`../../x`", "`con`", "emoji", "300 letters"),
    "adapters of an older format version",
    "100 concurrent transcriptions",
]


@cache
def functions(path: Path) -> set[str]:
    """Names of the tests of a module."""
    return {node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_has_a_row(fault):
    assert [row for row in ROWS if fault in row[0]]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_every_row_promises_something_and_has_a_test_that_is_there(row):
    _, promise, test = row

    path, name = re.fullmatch(r"`(tests/[\w/]+\.py)::(test_\w+)`", test).groups()

    assert promise and name in functions(ROOT / path)


def test_no_row_stands_on_the_test_of_another():
    tests = [row[2] for row in ROWS]

    assert len(set(tests)) == len(tests)
