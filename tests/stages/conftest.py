"""A whole tiny line: a corpus of noise, genuine models of random weights, one a family, and the recipe over both."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from pqm_plugin.stages import run_stage
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


@pytest.fixture(scope="module", params=["tiny_conformer", "tiny_whisper"])
def tiny_base(request: pytest.FixtureRequest) -> Path:
    """Return the folder of a tiny model, one of each family: every test that asks for it runs on all of them."""
    folder: Path = request.getfixturevalue(request.param)
    return folder


@pytest.fixture
def recipe(tmp_path: Path, tiny_base: Path) -> Recipe:
    """Return the recipe of `tiny_recipe`, below the test's own folder."""
    return tiny_recipe(tmp_path, tiny_base)


def tiny_recipe(folder: Path, tiny_base: Path) -> Recipe:
    """Two target speakers of six utterances, three SAT speakers of three; nothing has run yet."""
    target = {f"{s}-1-{i:04d}": WORDS[(i + s) % 6] for s in (10, 20) for i in range(6)}
    sat = {f"{s}-1-{i:04d}": WORDS[(i + s) % 6] for s in (30, 31, 32) for i in range(3)}
    config = folder / "pqm.yaml"
    config.write_text(CONFIG)
    return Recipe(
        corpus=write_corpus(folder / "corpus", {"dev": target, "sat": sat}, n_samples=16000),
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


@pytest.fixture
def run(recipe: Recipe, caplog: pytest.LogCaptureFixture) -> Callable[..., None]:
    """Return a function that runs stages of the tiny recipe by name."""
    caplog.set_level(logging.INFO)

    def run_stages(*names: str, of: Recipe = recipe) -> None:
        for name in names:
            run_stage(name, of)

    return run_stages
