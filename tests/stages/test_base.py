"""Stage 2 brings a base and never replaces what it has not made."""

import dataclasses
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json, sha256
from pqm_plugin.models.families import family_of


def double(weights):
    """Multiply every tensor of a weights file by two."""
    if weights.suffix == ".safetensors":
        save_file({name: value * 2 for name, value in load_file(weights).items()}, weights, {"format": "pt"})
    else:
        state = torch.load(weights, weights_only=True)
        torch.save({name: value * 2 for name, value in state.items()}, weights)


def test_the_record_holds_the_hash_and_the_text_is_matched(recipe, run):
    run("data", "base")

    record = read_json(recipe.base_dir / "pqm_base.json")
    assert record["sha256"] == sha256(family_of(recipe.base_dir).weights_file(recipe.base_dir))
    assert record["family"] == family_of(recipe.base_dir).NAME
    assert (recipe.base_dir / "text_fit.txt").read_text().startswith("text: case")


def test_a_base_that_lies_in_expdir_already_is_used_in_place(recipe, run, tiny_base):
    folder = shutil.copytree(tiny_base, recipe.expdir / "asr_mine")
    (folder / "train.log").write_text("of the user's own training")
    mine = dataclasses.replace(recipe, base=str(folder))

    run("data", "base", of=mine)

    assert (folder / "train.log").exists()
    assert mine.base_dir == folder
    assert (folder / "pqm_base.json").exists()


def test_a_folder_that_this_stage_has_not_made_is_left_alone(recipe, run):
    (recipe.base_dir / "important").mkdir(parents=True)

    with pytest.raises(PqmError, match="was not made by stage 2"):
        run("data", "base")

    assert (recipe.base_dir / "important").is_dir()


@pytest.mark.parametrize("base", ["..", "/"])
def test_a_base_without_a_name_is_refused(recipe, base, tmp_path, monkeypatch):
    monkeypatch.chdir("/")

    with pytest.raises(PqmError, match="base name '' cannot be a folder name"):
        _ = dataclasses.replace(recipe, base=base).base_dir


def test_new_weights_behind_the_same_path_are_brought_again(recipe, run, tiny_base, tmp_path):
    source = shutil.copytree(tiny_base, tmp_path / "source")
    here = dataclasses.replace(recipe, base=str(source))
    run("data", "base", of=here)
    weights = family_of(source).weights_file(source)
    double(weights)

    run("base", of=here)

    assert sha256(here.base_dir / weights.name) == sha256(weights)
    assert read_json(here.base_dir / "pqm_base.json")["sha256"] == sha256(weights)


def test_an_unknown_family_is_named(recipe, run, tmp_path):
    config = tmp_path / "train.yaml"
    config.write_text("encoder: conformer\n")
    wrong = dataclasses.replace(
        recipe, base="train", family="wav2vec", train_set="sat", valid_set="dev", asr_config=config
    )
    run("data", of=wrong)

    with pytest.raises(PqmError, match="--family wav2vec: there is no such model family; known: whisper, .*ctc, .*aed"):
        run("base", of=wrong)


def test_training_is_given_the_recipes_speeds_gpus_and_tokens(recipe, run, tmp_path, monkeypatch):
    given = {}
    config = tmp_path / "train.yaml"
    config.write_text("frontend_conf: {fs: 16k}\n")
    monkeypatch.setattr("pqm_plugin.models.espnet.train.train_base", lambda *_, **options: given.update(options))
    mine = dataclasses.replace(
        recipe,
        **{"base": "train", "asr_config": config, "train_set": "sat", "valid_set": "sat", "n_tokens": 9, "ngpu": 4},
        speed_perturb=(0.9, 1.1),
    )
    run("data", of=mine)

    with pytest.raises(PqmError):  # nothing was trained
        run("base", of=mine)

    assert (given["speed_factors"], given["ngpu"], given["n_tokens"]) == ((0.9, 1.1), 4, 9)
