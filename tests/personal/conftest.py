"""Tiny personal models of both families, and clips of noise to enrol with."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

TEXTS = ["GO ON", "STOP NOW", "WHO IS IT", "A CAT", "NO", "THE DOG RAN"]


def noise(seed: int, n_samples: int = 16000) -> np.ndarray:
    """A second of noise, int16 (n_samples,) at 16 kHz."""
    return np.random.default_rng(seed).integers(-3000, 3000, n_samples, dtype=np.int16)


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Return a function that gives the packed model of a float one, made once; it is not to be changed."""
    from pqm_plugin.personal.making import quantize

    made: dict[Path, Path] = {}

    def pack(base: Path) -> Path:
        if base not in made:
            made[base] = tmp_path_factory.mktemp("packed") / base.name
            quantize(str(base), made[base], licence="CC BY 4.0")
        return made[base]

    return pack


@pytest.fixture
def conformer(packed, tiny_conformer, tmp_path) -> Path:
    """A copy of the packed tiny Conformer."""
    return Path(shutil.copytree(packed(tiny_conformer), tmp_path / "conformer"))


@pytest.fixture
def whisper(packed, tiny_whisper, tmp_path) -> Path:
    """A copy of the packed tiny Whisper."""
    return Path(shutil.copytree(packed(tiny_whisper), tmp_path / "whisper"))


@pytest.fixture(params=["conformer", "whisper"])
def folder(request: pytest.FixtureRequest) -> Path:
    """A packed tiny model, one of each family: every test that asks for it runs on all of them."""
    found: Path = request.getfixturevalue(request.param)
    return found
