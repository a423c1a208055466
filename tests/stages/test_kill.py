"""`kill -9` at any instant, the same command again: the same result as one uninterrupted run."""

import dataclasses
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pqm_plugin.stages.recipe import Recipe, options
from tests.stages.conftest import one_family

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
LONG = (
    ("pretrain: {epochs: 2", "pretrain: {epochs: 25"),
    ("adapt: {epochs: 2", "adapt: {epochs: 25"),
    ("beam_size: 2", "beam_size: 8"),
)


def command(stage: str, recipe: Recipe) -> list[str]:
    """The command line that says what `recipe` says."""
    arguments = []
    for option in options():
        value = getattr(recipe, option.name)
        if value not in (None, "", ()):
            arguments += [f"--{option.name}", " ".join(value) if isinstance(value, tuple) else str(value)]
    return [sys.executable, "-m", "pqm_plugin", stage, *arguments]


def start(stage: str, recipe: Recipe) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command(stage, recipe), env=environment, stderr=subprocess.DEVNULL)


def kill_when(stage: str, recipe: Recipe, pattern: str) -> None:
    """Run a stage and kill it as soon as a file that matches `pattern` is there."""
    process = start(stage, recipe)
    while process.poll() is None and not any(path.stat().st_size for path in recipe.packed_dir.glob(pattern)):
        time.sleep(0.01)
    assert process.poll() is None, f"{stage} ended before {pattern} was there"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def ends(pid: int, within_s: float = 30) -> bool:
    """Whether a process ends within some seconds; one that is dead but not yet collected has ended."""
    try:
        return bool(select.select([os.pidfd_open(pid)], [], [], within_s)[0])
    except ProcessLookupError:
        return True


def words(recipe: Recipe) -> str:
    return (recipe.packed_dir / "decode_nf4+speaker" / "dev" / "hyp.trn").read_text()


def weights(recipe: Recipe) -> dict[str, bytes]:
    adapters = recipe.packed_dir.rglob("adapter_*")
    return {str(path.relative_to(recipe.packed_dir)): path.read_bytes() for path in adapters}


@one_family
def test_stages_4_to_6_killed_and_run_again_give_what_an_uninterrupted_run_gives(recipe, run, tmp_path):
    config = recipe.pqm_config
    for short, long in LONG:
        config.write_text(config.read_text().replace(short, long))
    whole = dataclasses.replace(recipe, systems=("nf4+speaker",))
    run("data", "base", "quantize", of=whole)
    cut = dataclasses.replace(whole, expdir=tmp_path / "cut")
    shutil.copytree(whole.expdir, cut.expdir)
    for stage in ("pretrain", "adapt", "decode"):
        run(stage, of=whole)

    for stage, pattern in (
        ("pretrain", ".sat.*.train"),
        ("adapt", "speakers/.10.*.train"),
        ("decode", "decode_*/dev/parts/*"),
    ):
        kill_when(stage, cut, pattern)
        assert start(stage, cut).wait() == 0

    assert weights(cut) == weights(whole)
    assert len(weights(whole)) == 6
    assert words(cut) == words(whole)


@one_family
def test_a_killed_recipe_leaves_no_worker_behind(recipe, run):
    config = recipe.pqm_config
    for short, long in LONG:
        config.write_text(config.read_text().replace(short, long.replace("25", "500")))
    run("data", "base", "quantize")
    config.write_text(config.read_text().replace("pretrain: {epochs: 500", "pretrain: {epochs: 1"))
    run("pretrain", of=dataclasses.replace(recipe))  # the configuration of a recipe is read once

    kill_when("adapt", recipe, "speakers/.10.*.train")

    log = (recipe.packed_dir / "speakers" / "log" / "adapt.0.log").read_text()
    assert ends(int(re.search(r": process (\d+) of", log)[1]))
