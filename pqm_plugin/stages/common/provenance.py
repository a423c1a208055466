"""Where a number comes from."""

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pqm_plugin.files import read_json
from pqm_plugin.processes import n_cores
from pqm_plugin.stages.recipe import BASE_RECORD, Recipe

_CODE = ("pqm_plugin", "egs/*.sh", "egs/*/*.sh", "egs/*/conf", "egs/*/local")
"""What of the checkout a number is made by."""
_PACKAGES = ("espnet", "transformers", "torch", "bitsandbytes", "peft", "jiwer")


def provenance(recipe: Recipe, threads: str = "1 thread a decode") -> dict[str, Any]:
    """The `meta` of results.json, and of sensitivity.json with its own use of the machine."""
    return {
        "corpus": recipe.target_set,
        "base": recipe.base_name,
        "base_sha256": read_json(recipe.base_dir / BASE_RECORD)["sha256"],
        **circumstances(recipe.command, recipe.config.seed, threads),
    }


def circumstances(command: str, seed: int, threads: str) -> dict[str, Any]:
    """What any measurement depends on: code, command, seed, machine with its use in words, date, versions."""
    return {
        "commit": _commit(),
        "command": command,
        "seed": seed,
        "hardware": f"{_processor()}, {n_cores()} cores, {threads}, {platform.system()}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """Commit of the checkout that this package lies in; a mark says if its code has uncommitted changes."""
    root = Path(__file__).resolve().parents[3]
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        changed = _git(root, "status", "--porcelain", "--", *_CODE)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + (" with uncommitted changes" if changed else "")


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, check=True).stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
