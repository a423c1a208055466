"""What `pqm` does, killed with SIGKILL just before one of its writes, then done again: as if nothing had been."""

import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import pqm_plugin
from pqm_plugin.personal.making import quantize
from pqm_plugin.personal.options import EnrollOptions
from pqm_plugin.personal.packing import pack
from pqm_plugin.personal.unpacking import unpack
from tests.faults import contents, in_child, kills
from tests.personal.conftest import TEXTS, noise

pytestmark = pytest.mark.slow
CLIPS = [noise(place) for place in range(3)]


def enroll(folder: Path, texts: list[str] | None, epochs: int = 2) -> None:
    options = EnrollOptions(rank=1, epochs=epochs, learning_rate=0.01, min_confidence=0)
    pqm_plugin.load(folder).enroll("ada", CLIPS, texts, options=options)


def held(step: Callable[[], object], folder: Path, saved: Path | None) -> int:
    """Do `step` once whole, then cut off at some of its writes and again; the folder must hold the same every time."""

    def put_back() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        if saved is not None:
            shutil.copytree(saved, folder)

    put_back()
    whole = in_child(step, folder.parent)
    assert whole.said == ""
    expected = contents(folder)
    for number in kills(whole.n_writes):
        put_back()
        assert in_child(step, folder.parent, kill_at=number).signal == signal.SIGKILL, number
        if not (saved is None and folder.exists()):
            # What was not there is there only when it is whole; then, `pqm` does not make it anew.
            assert in_child(step, folder.parent).said == "", number
        assert contents(folder) == expected, number
    return whole.n_writes


@pytest.mark.parametrize("texts", [TEXTS[:3], None], ids=["transcripts", "own words"])
def test_an_enrolment_killed_at_any_write_and_done_again_leaves_what_one_leaves(conformer, tmp_path, texts):
    saved = shutil.copytree(conformer, tmp_path / "saved/model")

    n_writes = held(partial(enroll, conformer, texts), conformer, saved)

    assert n_writes > 10


def test_a_voice_that_is_learned_anew_is_never_lost(conformer, tmp_path):
    enroll(conformer, TEXTS[:3])
    weights = conformer / "speakers/ada/adapter_model.safetensors"
    saved, step = shutil.copytree(conformer, tmp_path / "saved/model"), partial(enroll, conformer, TEXTS[:3], 3)
    whole = in_child(step, conformer)
    known = {(saved / weights.relative_to(conformer)).read_bytes(), weights.read_bytes()}
    n_last = 8

    for number in range(whole.n_writes - n_last + 1, whole.n_writes + 1):
        shutil.rmtree(conformer)
        shutil.copytree(saved, conformer)
        assert in_child(step, conformer, kill_at=number).signal == signal.SIGKILL

        assert weights.read_bytes() in known, number
        assert pqm_plugin.load(conformer).speakers == ["ada"]

    assert len(known) == 2


def test_models_and_packs_killed_at_any_write_are_whole_or_not_there(packed, tiny_conformer, tmp_path):
    model = packed(tiny_conformer)
    pack(model, tmp_path / "a.pqm")

    for place, make in enumerate(
        (
            partial(quantize, str(tiny_conformer), tmp_path / "0/model", licence="MIT"),
            partial(unpack, tmp_path / "a.pqm", tmp_path / "1/model"),
        )
    ):
        held(make, tmp_path / str(place) / "model", None)
        assert [path.name for path in (tmp_path / str(place)).iterdir()] == ["model"]
