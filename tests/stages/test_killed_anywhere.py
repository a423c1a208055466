"""Every stage killed with SIGKILL just before one of its writes, then run again: what an uninterrupted run leaves."""

import dataclasses
import json
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest

from pqm_plugin.stages import STAGES, run_stage
from pqm_plugin.stages.recipe import Recipe
from tests.faults import contents, in_child, kills

pytestmark = pytest.mark.slow


@pytest.fixture
def tiny_base(tiny_conformer: Path) -> Path:
    """One family is enough: what differs between families writes nothing but while a base is trained."""
    return tiny_conformer


@pytest.fixture
def line(recipe: Recipe) -> Recipe:
    """A recipe of one system, with few steps to each stage."""
    return dataclasses.replace(recipe, systems=("full", "nf4+speaker"))


def results(recipe: Recipe) -> dict[str, bytes]:
    """All that the recipe left but times: of a decode the words, of the index nothing."""
    files = {
        f"{folder.name}/{name}": data
        for folder in (recipe.datadir, recipe.expdir)
        for name, data in contents(folder).items()
        if Path(name).name not in ("index.tsv", "run.json")
    }
    return {name: _words(data) if "/parts/" in name else data for name, data in files.items()}


def _words(part: bytes) -> bytes:
    rows = [json.loads(row) for row in part.splitlines()]
    return json.dumps([(row.get("utterance"), row.get("text"), row.get("score")) for row in rows]).encode()


def put_back(folders: list[Path], saved: Path) -> None:
    """Let the recipe's folders be as they were saved, times of change included."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
        if (saved / folder.name).exists():
            shutil.copytree(saved / folder.name, folder)


def test_every_stage_killed_at_any_write_and_run_again_leaves_what_one_run_leaves(line, tmp_path):
    import matplotlib.backends.backend_svg  # noqa: F401 - once here, not in every child

    folders = [line.datadir, line.expdir]
    n_killed = 0
    for stage in STAGES:
        saved = tmp_path / f"before_{stage}"
        for folder in folders:
            if folder.exists():
                shutil.copytree(folder, saved / folder.name)
        run = partial(run_stage, stage, line)
        whole = in_child(run, tmp_path)
        assert whole.said == "" and whole.n_writes > 0
        expected = results(line)

        for number in kills(whole.n_writes):
            put_back(folders, saved)
            assert in_child(run, tmp_path, kill_at=number).signal == signal.SIGKILL, (stage, number)
            assert in_child(run, tmp_path).said == "", (stage, number)
            assert results(line) == expected, (stage, number)
            n_killed += 1
            print(stage, number, whole.n_writes, flush=True)

    assert n_killed >= 2 * len(STAGES)
    assert json.loads((line.packed_dir / "results.json").read_text())["systems"]["nf4+speaker"]["utterances"] == 4
