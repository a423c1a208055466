"""How pages of docs/ are read and their commands run."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
BASE = "/path/to/espnet/exp/asr_train_conformer"
CORPUS = "/path/to/LibriSpeech"
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.M | re.S)
_LINK = re.compile(r"\]\(([^)#:]+)[^):]*\)")


def commands(name: str) -> list[str]:
    """The blocks of a page that are to be run, in its order."""
    return [
        block for language, block in _BLOCK.findall((DOCS / name).read_text(encoding="utf-8")) if language == "bash"
    ]


def links(name: str) -> list[Path]:
    """The files that a page leads to or shows."""
    return [(DOCS / path).resolve() for path in _LINK.findall((DOCS / name).read_text(encoding="utf-8"))]


def run(block: str, cwd: Path) -> str:
    """Run a block and return what it wrote, its log at the end.

    Raises:
        AssertionError: if it fails, with what it wrote.
    """
    return "".join(run_apart(block, cwd))


def run_apart(block: str, cwd: Path) -> tuple[str, str]:
    """Run a block and return its standard output, and what it logged; errors as `run`."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHON": sys.executable}
    command = ["bash", "-euo", "pipefail", "-c", block]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, done.stderr
