"""Fixtures that several folders of tests share."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.faults import Disk, mounted


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests that fork first: some trainings leave a process whose children cannot compute gradients any more."""
    items.sort(key=lambda item: not hasattr(getattr(item, "module", None), "in_child"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked `gpu` where there is none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


@pytest.fixture(params=["pretended", pytest.param("real", marks=pytest.mark.gpu)])
def with_gpu(request: pytest.FixtureRequest) -> Callable[[], AbstractContextManager[object]]:
    """Return a context in which the device `cuda` can be used: one that is pretended, and the real one if there is."""
    from tests.pretended import PretendedDevice

    return PretendedDevice if request.param == "pretended" else nullcontext


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder with the real speech and weights: `PQM_SHARED`, or `../shared` beside the checkout."""
    folder = Path(os.environ.get("PQM_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    if not (folder / "data").is_dir():
        pytest.skip(f"no real speech at {folder}: set PQM_SHARED to the folder that holds data/ and models/")
    return folder


@pytest.fixture
def make_corpus(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a tiny LibriSpeech: sets, each mapping an utterance to its text."""

    return partial(write_corpus, tmp_path / "corpus")


def write_corpus(
    root: Path, sets: Mapping[str, Mapping[str, str]], sample_rate: int = 16000, n_samples: int = 1600
) -> Path:
    """Write a LibriSpeech of noise at `root`: sets, each mapping an utterance to its text."""
    for set_name, texts in sets.items():
        for place, (utterance, text) in enumerate(sorted(texts.items())):
            reader, chapter, _ = utterance.split("-")
            folder = root / set_name / reader / chapter
            folder.mkdir(parents=True, exist_ok=True)
            samples = np.random.default_rng(place).integers(-3000, 3000, n_samples, dtype=np.int16)
            soundfile.write(folder / f"{utterance}.flac", samples, sample_rate)
            with (folder / f"{reader}-{chapter}.trans.txt").open("a", encoding="utf-8") as file:
                file.write(f"{utterance} {text}\n")
    return root


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Return an empty disk of a megabyte and 100 files."""
    with mounted(tmp_path / "small", "1m", 100) as small:
        yield small


@pytest.fixture(scope="session")
def tiny_conformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a genuine ESPnet Conformer AED of 30,000 random weights and 30 character tokens."""
    from tests.tiny import make_tiny_conformer

    return make_tiny_conformer(tmp_path_factory.mktemp("tiny") / "tiny_conformer")


@pytest.fixture(scope="session")
def tiny_whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a genuine Whisper of 15,000 random weights, bytes as tokens and a window of two seconds."""
    from tests.tiny import make_tiny_whisper

    return make_tiny_whisper(tmp_path_factory.mktemp("tiny") / "tiny_whisper")


@pytest.fixture(scope="session")
def spacious_whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with such a Whisper whose window of eight seconds leaves silence to be spared."""
    from tests.tiny import make_tiny_whisper

    return make_tiny_whisper(tmp_path_factory.mktemp("tiny") / "spacious_whisper", window_s=8)


@pytest.fixture(scope="session")
def tiny_ctc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a genuine wav2vec 2.0 with a CTC layer, of 24,000 random weights and 32 character tokens."""
    from tests.tiny import make_tiny_ctc

    return make_tiny_ctc(tmp_path_factory.mktemp("tiny") / "tiny_ctc")


@pytest.fixture(scope="session")
def tiny_multilingual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tiny Whisper of `tests.tiny.LANGUAGES`, which finds German in whatever it hears."""
    from tests.tiny import LANGUAGES, make_tiny_whisper, prefer_language

    folder = make_tiny_whisper(tmp_path_factory.mktemp("tiny") / "tiny_multilingual", languages=LANGUAGES)
    return prefer_language(folder, "de")


@pytest.fixture(params=["tiny_conformer", "tiny_whisper"])
def recognizer(request: pytest.FixtureRequest) -> Any:
    """Return a tiny float model in evaluation mode, one of each family."""
    from pqm_plugin.models.families import family_of
    from pqm_plugin.models.options import SearchOptions

    folder = request.getfixturevalue(request.param)
    made = family_of(folder).load_float(folder, SearchOptions(), "cpu")
    made.network.eval()
    return made
