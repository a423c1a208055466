"""Provenance of a number: command, commit, versions, processor."""

import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pqm_plugin.files import read_json
from pqm_plugin.processes import n_cores
from pqm_plugin.stages.recipe import BASE_RECORD, Recipe

_CODE = ("pqm_plugin", "egs/*.sh", "egs/*/*.sh", "egs/*/conf", "egs/*/local")
"""What of the checkout a number is made by."""
_VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2"}
_PACKAGES = ("espnet", "transformers", "torch", "bitsandbytes", "peft", "jiwer")


def provenance(recipe: Recipe, threads: str = "1 thread a decode") -> dict[str, Any]:
    """The `meta` of results.json, and of sensitivity.json with its own use of the machine."""
    return {
        "corpus": recipe.target_set,
        "base": recipe.base_name,
        "base_sha256": read_json(recipe.base_dir / BASE_RECORD)["sha256"],
        **circumstances(recipe.command, recipe.config.seed, threads),
    }


def circumstances(command: str, seed: int, threads: str, further_code: Sequence[str] = ()) -> dict[str, Any]:
    """What any measurement depends on: code, command, seed, machine with its use in words, date, versions.

    Args:
        further_code: what of the checkout the measurement is made by beside stages and recipes, as git names paths.
    """
    return {
        "commit": _commit(further_code),
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


def _commit(further_code: Sequence[str]) -> str:
    """Commit of the checkout that this package lies in; a mark says if its code has uncommitted changes."""
    root = Path(__file__).resolve().parents[3]
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        changed = _git(root, "status", "--porcelain", "--", *_CODE, *further_code)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + (" with uncommitted changes" if changed else "")


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, check=True).stdout.strip()


def _processor() -> str:
    """Its name, and the widest vectors that it has: by them sums are rounded, and some names say nothing of a model."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        about = dict([part.strip() for part in line.split(":", 1)] for line in reversed(lines) if ":" in line)
        name = about["model name"]
    except (OSError, KeyError):
        return platform.processor() or platform.machine()
    flags = about.get("flags", "").split()
    return name + next((f" with {said}" for flag, said in _VECTORS.items() if flag in flags), "")
