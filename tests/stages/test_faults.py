"""Every stage on a machine that fails it: nothing earlier is lost, one line says why, and the next run is as the first.

A stage is killed with SIGKILL just before some of its writes, finds the disk full on its way, may
not write, or finds its disk mounted for reading alone.
"""

import itertools
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

from pqm_plugin.files import exclusive, read_json, write_json
from pqm_plugin.stages import STAGES, _lock, run_stage
from pqm_plugin.stages.recipe import Recipe
from tests.faults import (
    PAGE_BYTES,
    Disk,
    Ended,
    allow_writing,
    contents,
    drop_rights,
    forbid_writing,
    in_child,
    kills,
    mounted,
    put_back,
    started,
)
from tests.stages.conftest import tiny_recipe

pytestmark = pytest.mark.slow
DAY_S = 86400
TIMED = ("index.tsv", "run.json")
FULL = "the disk is full; free some space and run the same command again, nothing earlier was touched"


@dataclass(frozen=True)
class Line:
    """A tiny recipe on a disk of its own, with what each stage found and what it left."""

    disk: Disk
    recipe: Recipe
    saved: Path
    n_writes: dict[str, int]
    left: dict[str, dict[str, bytes]]
    size_bytes: dict[str, int]

    @property
    def folders(self) -> list[Path]:
        return [self.recipe.datadir, self.recipe.expdir]

    def results(self) -> dict[str, bytes]:
        """All that is there but times: of a decode the words, of the index nothing."""
        files = {
            f"{folder.name}/{name}": data
            for folder in self.folders
            for name, data in contents(folder).items()
            if Path(name).name not in TIMED
        }
        return {name: _words(data) if "/parts/" in name else data for name, data in files.items()}

    def before(self, stage: str) -> dict[str, bytes]:
        """Put back what `stage` finds, and return it."""
        put_back(self.folders, self.saved / stage)
        return self.results()

    def run(self, stage: str, **how: object) -> Ended:
        return in_child(partial(run_stage, stage, self.recipe), self.disk.folder, **how)


def _words(part: bytes) -> bytes:
    rows = [json.loads(row) for row in part.splitlines()]
    return json.dumps([(row.get("utterance"), row.get("text"), row.get("score")) for row in rows]).encode()


@pytest.fixture(scope="module")
def line(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """Return a recipe whose stages have all run once."""
    import matplotlib.backends.backend_svg  # noqa: F401 - once here, not in every child

    root = tmp_path_factory.mktemp("line")
    recipe = tiny_recipe(root, tiny_base)
    with mounted(root / "disk", "4m", 500) as disk:
        recipe = replace(
            recipe,
            datadir=disk.folder / "line/data",
            expdir=disk.folder / "line/exp",
            systems=("full", "nf4+speaker"),
        )
        recipe.expdir.mkdir(parents=True)
        made = Line(disk, recipe, root / "saved", {}, {}, {})
        for stage in STAGES:
            for folder in made.folders:
                if folder.exists():
                    shutil.copytree(folder, made.saved / stage / folder.name)
            used_bytes = disk.used_bytes()
            ended = made.run(stage)
            assert ended.said == ""
            made.size_bytes[stage] = disk.used_bytes() - used_bytes
            made.n_writes[stage], made.left[stage] = ended.n_writes, made.results()
        yield made


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_killed_at_any_write_and_run_again_leaves_what_one_run_leaves(line, stage):
    for number in kills(line.n_writes[stage]):
        line.before(stage)
        assert line.run(stage, kill_at=number).signal == signal.SIGKILL, number
        assert line.run(stage).said == "", number

        assert line.results() == line.left[stage], number


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_on_a_full_disk_says_so_loses_nothing_and_goes_on_when_there_is_space(line, stage):
    earlier = line.before(stage)
    line.disk.fill(line.size_bytes[stage] // 2 // PAGE_BYTES * PAGE_BYTES)

    said = line.run(stage).said

    line.disk.free()
    assert FULL in said and str(line.disk.folder) in said and "\n" not in said
    assert earlier.items() <= line.results().items()
    assert line.run(stage).said == ""
    assert line.results() == line.left[stage]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("fault", ["no right to write", "mounted for reading alone"])
def test_a_stage_that_may_not_write_says_where_and_changes_nothing(line, stage, fault):
    earlier, top = line.before(stage), line.disk.folder / "line"
    forbid: Callable[[], None] = partial(forbid_writing, top)
    allow: Callable[[], None] = partial(allow_writing, top)
    if fault == "mounted for reading alone":
        forbid, allow = partial(line.disk.allow_writing, False), partial(line.disk.allow_writing, True)
    forbid()
    try:
        said = line.run(stage, before=drop_rights).said
    finally:
        allow()

    reason = "permission denied; correct its access rights" if "right" in fault else "read-only file system; mount it"
    assert reason in said and str(top) in said and "\n" not in said
    assert line.results() == earlier


@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_on_one_folder_do_the_work_of_one_and_the_other_is_told_to_wait(line, stage):
    line.before(stage)
    with exclusive(_lock(stage, line.recipe)):
        waits = line.run(stage)
    assert f"process {os.getpid()} is at work on it; wait for it to end" in waits.said
    assert line.results() == line.before(stage)

    both = [started(partial(run_stage, stage, line.recipe), line.disk.folder) for _ in range(2)]
    said = sorted(wait().said for wait in both)

    assert said[0] == "" and (said[1] == "" or "is at work on it; wait for it to end" in said[1])
    assert line.results() == line.left[stage]


def clock_runs_backwards() -> None:
    """Let this process see a clock that is a day slow and loses ten seconds each time that somebody looks."""
    import tqdm.std

    start, looks = time.time() - DAY_S, itertools.count()

    def now() -> float:
        return start - 10 * next(looks)

    time.time = tqdm.std.time = now
    time.time_ns = lambda: int(now() * 1e9)


@pytest.mark.parametrize("stage", STAGES)
def test_a_clock_that_was_set_back_changes_no_result_and_nothing_is_done_twice(line, stage):
    line.before(stage)
    ahead = [path for folder in line.folders for path in folder.rglob("*") if path.is_file()]
    for path in ahead:
        os.utime(path, (path.stat().st_atime + DAY_S, path.stat().st_mtime + DAY_S))

    assert line.run(stage, before=clock_runs_backwards).said == ""
    assert line.results() == line.left[stage]
    weights = {path: path.stat().st_mtime_ns for path in line.recipe.expdir.rglob("*.safetensors")}
    assert line.run(stage, before=clock_runs_backwards).said == ""

    assert line.results() == line.left[stage]
    assert {path: path.stat().st_mtime_ns for path in line.recipe.expdir.rglob("*.safetensors")} == weights


def test_adapters_of_an_older_format_version_are_refused_by_stage_6_and_made_anew_by_stages_4_and_5(line):
    line.before("decode")
    weights = [line.recipe.packed_dir / name / "adapter_model.safetensors" for name in ("sat", "speakers/10")]
    for path in weights:
        info = read_json(path.with_name("pqm.json"))
        write_json(path.with_name("pqm.json"), info | {"format_version": 0})
    as_index_of_older_version = line.recipe.packed_dir / "speakers/index.tsv"
    as_index_of_older_version.unlink()

    said = line.run("decode").said
    assert "is of another format version (0, this program reads 1): run stage" in said and "\n" not in said
    for stage in ("pretrain", "adapt", "decode"):
        assert line.run(stage).said == "", stage

    assert line.results() == line.left["decode"]
