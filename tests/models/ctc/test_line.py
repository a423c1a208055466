"""A CTC model of transformers through all stages of a recipe, and as a personal model."""

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile

import pqm_plugin
from pqm_plugin.commands.__main__ import main
from pqm_plugin.files import read_json
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.stages import run_stage
from tests.personal.conftest import TEXTS, noise
from tests.stages.conftest import tiny_recipe

STAGES = ("data", "base", "quantize", "pretrain", "adapt", "decode", "score", "report")
CONTROLS = ("full+copy", "nf4+speaker-unsup", "nf4+sat")


@pytest.mark.slow
def test_all_stages_give_all_systems_and_a_second_run_changes_nothing(tiny_ctc, tmp_path, caplog):
    recipe = tiny_recipe(tmp_path, tiny_ctc)
    recipe.pqm_config.write_text(recipe.pqm_config.read_text().replace("keep: [embedding]", "keep: [output]"))
    for name in STAGES:
        run_stage(name, recipe)

    results = read_json(recipe.packed_dir / "results.json")
    assert list(results["systems"]) == ["stock", "full", "int8", "nf4", "nf4+sat", "nf4+speaker", "nf4+other"]
    words = {key: (recipe.decode_dir(key, "dev") / "text").read_text() for key in results["systems"]}
    assert words["full"] == words["stock"]
    assert len({words[key] for key in ("full", "nf4", "nf4+sat", "nf4+speaker", "nf4+other")}) == 5
    assert read_json(recipe.packed_dir / "meta.json")["ratio"] > 3
    assert "nf4+speaker" in (recipe.packed_dir / "RESULTS.md").read_text()
    caplog.set_level(logging.INFO)
    for name in STAGES:
        run_stage(name, recipe)
    assert "0 speakers to adapt" in caplog.text and "0 decoding jobs" in caplog.text


@pytest.mark.slow
def test_controls_own_words_and_calibration_work_as_with_other_families(tiny_ctc, tmp_path):
    recipe = dataclasses.replace(tiny_recipe(tmp_path, tiny_ctc), systems=("full", "nf4-rtn", *CONTROLS))
    config = recipe.pqm_config.read_text().replace("keep: [embedding]", "keep: [feature_conv], calibrate: 3")
    recipe.pqm_config.write_text(config + "unsupervised: {min_confidence: -100}\n")
    for name in STAGES[:6]:
        run_stage(name, recipe)

    words = {key: (recipe.decode_dir(key, "dev") / "text").read_text() for key in recipe.systems}
    assert len({words[key] for key in ("full", "full+copy", "nf4-rtn", "nf4+sat")}) == 4
    assert (recipe.packed_dir / "speakers-unsup" / "10" / "adapter_model.safetensors").is_file()


@pytest.fixture
def packed(tiny_ctc, tmp_path) -> Path:
    """The packed tiny model, made by the command."""
    assert main(["quantize", str(tiny_ctc), str(tmp_path / "model")]) == 0
    return tmp_path / "model"


@pytest.mark.slow
def test_a_personal_model_is_made_enrolled_and_used_by_commands(packed, tmp_path, capsys):
    clips = []
    for place, text in enumerate(TEXTS):
        soundfile.write(tmp_path / f"{place}.wav", noise(place), 16000)
        (tmp_path / f"{place}.txt").write_text(text)
        clips.append(str(tmp_path / f"{place}.wav"))

    assert main(["enroll", str(packed), "--speaker", "ada", *clips]) == 0
    capsys.readouterr()
    assert main(["transcribe", str(packed), clips[0]]) == 0
    plain = capsys.readouterr().out
    assert main(["transcribe", str(packed), clips[0], "--speaker", "ada"]) == 0
    adapted = capsys.readouterr().out

    assert plain != adapted
    assert main(["info", str(packed)]) == 0
    assert "(transformers CTC)" in capsys.readouterr().out


@pytest.mark.slow
def test_both_modes_of_a_packed_model_and_every_batch_give_the_same_words(packed):
    audio = [noise(seed, n).astype(np.float32) / 32768 for seed, n in enumerate((16000, 9000, 30000, 200))]

    found = []
    for mode in ("exact", "small"):
        for batch_size in (1, 4):
            model = pqm_plugin.load(packed, mode=mode, search=SearchOptions(batch_size=batch_size))
            found.append([model.transcribe(samples, sample_rate=16000).text for samples in audio])

    assert all(texts == found[0] for texts in found) and found[0][3] == ""
