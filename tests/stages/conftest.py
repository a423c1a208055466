"""A whole tiny line: a corpus of noise, genuine models of random weights, one a family, and the recipe over both.

What stages leave in folders that were empty is kept: a later test that begins with the same stages of the same recipe
gets a copy of it, see `Finished`.
"""

import dataclasses
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pqm_plugin.stages import run_stage
from pqm_plugin.stages.common.systems import adapted_bases, all_adapter_sets, packed_kinds
from pqm_plugin.stages.recipe import Recipe
from tests.conftest import write_corpus

CONFIG = """
quantize: {keep: [embedding]}
lora: {rank: 1, alpha: 4, max_fraction: 0.05}
pretrain: {epochs: 2, learning_rate: 0.01}
adapt: {epochs: 2, learning_rate: 0.01}
decode: {beam_size: 2, ctc_weight: 0.5}
"""
WORDS = ["GO ON", "STOP NOW", "WHO IS IT", "A CAT", "NO", "THE DOG RAN"]


one_family = pytest.mark.parametrize("tiny_base", ["tiny_conformer"], indirect=True)
"""For tests of what stages do alike whatever the model: they run on one family."""


@pytest.fixture(scope="module", params=["tiny_conformer", "tiny_whisper"])
def tiny_base(request: pytest.FixtureRequest) -> Path:
    """Return the folder of a tiny model, one of each family: every test that asks for it runs on all of them."""
    folder: Path = request.getfixturevalue(request.param)
    return folder


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the corpus of `tiny_recipe`, written once; it is not to be changed."""
    return write_tiny_corpus(tmp_path_factory.mktemp("tiny_corpus") / "corpus")


@pytest.fixture
def recipe(tmp_path: Path, tiny_base: Path, tiny_corpus: Path) -> Recipe:
    """Return the recipe of `tiny_recipe`, below the test's own folder but for the corpus, which all tests share."""
    return tiny_recipe(tmp_path, tiny_base, tiny_corpus)


def write_tiny_corpus(folder: Path) -> Path:
    """Write two target speakers of six utterances and three SAT speakers of three, a second of noise each."""
    target = {f"{s}-1-{i:04d}": WORDS[(i + s) % 6] for s in (10, 20) for i in range(6)}
    sat = {f"{s}-1-{i:04d}": WORDS[(i + s) % 6] for s in (30, 31, 32) for i in range(3)}
    return write_corpus(folder, {"dev": target, "sat": sat}, n_samples=16000)


def tiny_recipe(folder: Path, tiny_base: Path, corpus: Path | None = None) -> Recipe:
    """Return a recipe below `folder`, where nothing has run yet, over `corpus` or a tiny one of its own."""
    config = folder / "pqm.yaml"
    config.write_text(CONFIG)
    return Recipe(
        corpus=corpus or write_tiny_corpus(folder / "corpus"),
        base=str(tiny_base),
        target_set="dev",
        sat_sets=("sat",),
        datadir=folder / "data",
        expdir=folder / "exp",
        pqm_config=config,
        nj=1,
        inference_nj=1,
        command="test",
    )


class Finished:
    """What the first stages of recipes left behind, so that each of them runs once in a test run.

    It stands in for stages that begin where nothing is yet; all later ones run. Only recipes over `corpora` count,
    which no test changes.
    """

    def __init__(self, root: Path, corpus: Path) -> None:
        self.corpora = [corpus]
        self._root = root
        self._kept: dict[tuple[object, ...], Path] = {}

    def run(self, names: Sequence[str], of: Recipe) -> None:
        """Leave in the folders of the recipe what these stages leave there."""
        fresh = of.corpus in self.corpora and not of.datadir.exists() and not of.expdir.exists()
        done = 0
        if fresh:
            done = next((n for n in range(len(names), 0, -1) if self._asked(names[:n], of) in self._kept), 0)
        if done:
            kept = self._kept[self._asked(names[:done], of)]
            for name, folder in (("data", of.datadir), ("exp", of.expdir)):
                if (kept / name).exists():
                    shutil.copytree(kept / name, folder, symlinks=True)
        for n, name in enumerate(names[done:], start=done + 1):
            run_stage(name, of)
            if fresh:
                self._keep(self._asked(names[:n], of), of)

    def _keep(self, asked: tuple[object, ...], of: Recipe) -> None:
        kept = self._root / str(len(self._kept))
        for name, folder in (("data", of.datadir), ("exp", of.expdir)):
            if folder.exists():
                shutil.copytree(folder, kept / name, symlinks=True)
        self._kept[asked] = kept

    def _asked(self, names: Sequence[str], of: Recipe) -> tuple[object, ...]:
        """All that these stages read: the text of the files that a recipe names, and what it asks of the last one."""
        values = {option.name: getattr(of, option.name) for option in dataclasses.fields(of)}
        for name in ("pqm_config", "inference_config", "study"):
            values[name] = values[name] and values[name].read_text()
        del values["datadir"], values["expdir"]
        if not {"decode", "score", "report", "study", "sensitivity"} & set(names):
            # Before stage 6 systems decide only what is packed, and what is adapted.
            of_stages = {"quantize": packed_kinds, "pretrain": adapted_bases, "adapt": all_adapter_sets}
            values["systems"] = [decided(of) for stage, decided in of_stages.items() if stage in names]
        return (tuple(names), *sorted((name, repr(value)) for name, value in values.items()))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Path) -> Finished:
    """Return what stages left earlier in this test run."""
    return Finished(tmp_path_factory.mktemp("finished"), tiny_corpus)


@pytest.fixture
def run(recipe: Recipe, finished: Finished, caplog: pytest.LogCaptureFixture) -> Callable[..., None]:
    """Return a function that runs stages of the tiny recipe by name, see `Finished`."""
    caplog.set_level(logging.INFO)

    def run_stages(*names: str, of: Recipe = recipe) -> None:
        finished.run(names, of)

    return run_stages
