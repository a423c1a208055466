"""Scripts of recipes, run in this process: an interpreter for each call takes seconds."""

import contextlib
import importlib.util
import io
import logging
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest


@cache
def loaded(script: Path) -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location(script.stem, script)
    assert spec and spec.loader
    module = sys.modules[script.stem] = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(script.parent)
        spec.loader.exec_module(module)
    return module


def run_script(script: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Call the script's `main` with these arguments, and return its status and what it wrote."""
    command, out, err = [str(script), *map(str, arguments)], io.StringIO(), io.StringIO()
    log = logging.getLogger()
    handlers, level = log.handlers[:], log.level
    # The script sets up a log of its own, and would close pytest's.
    log.handlers.clear()
    try:
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.setattr(sys, "argv", command)
            status = loaded(script).main()
    finally:
        log.handlers[:] = handlers
        log.setLevel(level)
    return subprocess.CompletedProcess(command, status, out.getvalue(), err.getvalue())
