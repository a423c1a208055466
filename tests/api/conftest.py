"""A running server of a tiny model that knows two speakers, and what `pqm transcribe` writes of recordings."""

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pqm_plugin.commands.__main__ import main
from pqm_plugin.files import read_json, write_json
from tests.page.serving import Served, serving
from tests.personal.conftest import TEXTS, noise

KEY = "a key of many letters"
# Random weights write until they may not.
SEARCH = {"beam_size": 2, "max_length_ratio": 0.1}


@pytest.fixture(scope="session")
def model(tiny_conformer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed tiny Conformer that ada and bob are enrolled with; it is not to be changed."""
    import pqm_plugin
    from pqm_plugin.personal.making import quantize
    from pqm_plugin.personal.options import EnrollOptions

    folder = tmp_path_factory.mktemp("api") / "model"
    quantize(str(tiny_conformer), folder)
    write_json(folder / "about.json", {**read_json(folder / "about.json"), "decode": SEARCH})
    made = pqm_plugin.load(folder)
    options = EnrollOptions(rank=1, epochs=2, learning_rate=0.05)
    for place, speaker in enumerate(("ada", "bob")):
        made.enroll(speaker, [noise(10 * place + seed) for seed in range(6)], TEXTS, options=options)
    return folder


@pytest.fixture(scope="session")
def speech(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Six recordings of noise, of 1 to 2 seconds, and one of 10 that is cut into subtitles."""
    folder = tmp_path_factory.mktemp("speech")
    lengths = [16000 + 3200 * place for place in range(6)] + [160000]
    for place, length in enumerate(lengths):
        soundfile.write(folder / f"{place}.wav", noise(100 + place, length), 16000)
    return sorted(folder.iterdir())


@pytest.fixture(scope="session")
def words(model: Path) -> Callable[..., str]:
    """Return a function that gives what `pqm transcribe` writes."""
    known: dict[tuple, str] = {}

    def transcribed(audio: Path, speaker: str | None = None, form: str = "text") -> str:
        key = (audio, speaker, form)
        if key not in known:
            options = [*(["--speaker", speaker] if speaker else []), "--format", form, "--quiet"]
            written = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="")
            with contextlib.redirect_stdout(written):
                assert main(["transcribe", str(model), str(audio), *options]) == 0
            written.seek(0)
            known[key] = written.read()
        return known[key].rstrip("\n") if form == "text" else known[key]

    return transcribed


@pytest.fixture(scope="session")
def serve(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., object]:
    """Return a function that serves a copy of the model with options, as a context."""
    import shutil

    pytest.importorskip("gradio", reason="no gradio: pip install 'pqm_plugin[serve]'")

    def start(*options: str) -> object:
        folder = tmp_path_factory.mktemp("served")
        shutil.copytree(model, folder / "model")
        return serving(folder, *options)

    return start


@pytest.fixture(scope="session")
def served(serve: Callable[..., object]) -> Iterator[Served]:
    """The API, with a key, beside Wyoming."""
    with serve("--api", "--api_key", KEY, "--wyoming", "tcp://127.0.0.1:0") as found:  # type: ignore[attr-defined]
        yield found


def quiet(duration_s: float, rate: int = 16000) -> np.ndarray:
    """Silence, int16 (n_samples,)."""
    return np.zeros(round(duration_s * rate), np.int16)


def fuzz_rounds() -> int:
    """How many broken inputs a test makes by chance: `PQM_FUZZ`, by default few."""
    return int(os.environ.get("PQM_FUZZ") or 20)
