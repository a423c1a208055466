"""What commit d787e68 left on disk is opened, counts as done, and has its words; `tests/old/make.py` made it."""

import hashlib
import logging
import os
import shutil
import tarfile
from pathlib import Path

import pytest

import pqm_plugin
from pqm_plugin.files import read_json
from pqm_plugin.personal.options import EnrollOptions
from pqm_plugin.personal.unpacking import unpack
from pqm_plugin.stages import run_stage
from tests.old.make import ENROLLED, OPTIONS, STAGES, SYSTEMS, names, recipe, words_of, write_recordings

OLD = Path(__file__).parent / "old"


@pytest.fixture(params=["conformer", "whisper"])
def old(request, tmp_path, monkeypatch):
    """Return the working folder with what is left of one family, and its recordings."""
    with tarfile.open(OLD / f"{request.param}.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    write_recordings(Path("audio"))
    return tmp_path


MADE = ("meta.json", "pqm.json", "pqm_base.json", "adapter_config.json")


def contents(folder):
    """Return what was made below a folder, weights and records: its time of change and the hash of its bytes."""
    made = [path for path in folder.rglob("*") if path.name in MADE or path.suffix in (".safetensors", ".pth")]
    return {path: (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()) for path in made}


@pytest.mark.slow
def test_the_folders_of_a_recipe_count_as_done_and_nothing_is_made_again(old, caplog):
    caplog.set_level(logging.INFO)
    shutil.copytree("exp/tiny", "tiny")
    before = contents(old / "exp")

    for stage in STAGES:
        run_stage(stage, recipe())

    assert contents(old / "exp") == before
    assert "made with other settings" not in caplog.text
    assert "exp/tiny_nf4/speakers: 0 speakers to adapt, 2 done already" in caplog.text
    assert "0 decoding jobs" in caplog.text


@pytest.mark.slow
def test_the_adapters_of_a_recipe_find_the_same_words_again(old):
    folders = [f"exp/tiny_nf4/decode_{system}/dev" for system in SYSTEMS]
    before = [Path(folder, "text").read_bytes() for folder in folders]
    shutil.copytree("exp/tiny", "tiny")
    for folder in folders:
        shutil.rmtree(folder)

    run_stage("decode", recipe())

    assert [Path(folder, "text").read_bytes() for folder in folders] == before


def test_a_personal_model_and_its_pack_have_their_words(old):
    unpack("voice.pqm", "again")

    for folder in ("voice", "again"):
        assert pqm_plugin.load(folder).speakers == ["ada"]
        assert words_of(folder) == read_json(old / "words.json")


def test_an_enrolment_counts_as_done_and_nothing_is_made_again(old):
    before = contents(old / "voice")
    texts = {name: words for name, _, words, _ in names()}

    done = pqm_plugin.load("voice").enroll(
        "ada",
        [Path(f"audio/{name}.wav") for name in ENROLLED],
        [texts[name] for name in ENROLLED],
        options=EnrollOptions(**OPTIONS),
    )

    assert not done.is_new and contents(old / "voice") == before


def test_all_that_is_kept_is_small():
    assert sum(os.path.getsize(path) for path in OLD.iterdir() if path.is_file()) < 300_000
