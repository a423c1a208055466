"""Training texts in the model's own style: which recipe has them so, and what is learned from then."""

import dataclasses
import json

import pytest

from pqm_plugin.adapters.files import read_info
from pqm_plugin.adapters.options import TrainOptions
from pqm_plugin.engine.data import style_of
from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json
from pqm_plugin.metrics.normalize import CORPUS, MODEL, in_style
from pqm_plugin.models.families import family_of
from pqm_plugin.stages.common.material import Material, training_examples
from pqm_plugin.stages.common.opening import open_base
from pqm_plugin.stages.common.style import style_file, styled, write_styles
from pqm_plugin.stages.config import load_config


def test_the_models_style_is_chosen_where_the_model_has_one_and_the_corpus_none():
    assert style_of("auto", ["TURN OFF"], writes_case=True) == MODEL
    assert style_of("auto", ["Turn off."], writes_case=True) == CORPUS
    assert style_of("auto", ["TURN OFF"], writes_case=False) == CORPUS
    assert style_of("corpus", ["TURN OFF"], writes_case=True) == CORPUS
    assert style_of("model", ["Turn off."], writes_case=False) == MODEL


def test_a_vocabulary_with_capitalised_words_tells_a_model_that_writes_case(tiny_whisper, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for path in tiny_whisper.iterdir():
        (folder / path.name).symlink_to(path)
    assert not family_of(folder).facts(folder).writes_case
    if (folder / "tokenizer.json").exists():
        content = read_json(folder / "tokenizer.json")
        content["model"]["vocab"]["ĠThen"] = len(content["model"]["vocab"]) + 50
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer.json").write_text(json.dumps(content))
    else:
        content = read_json(folder / "vocab.json")
        (folder / "vocab.json").unlink()
        (folder / "vocab.json").write_text(json.dumps(content | {"ĠThen": len(content) + 50}))

    assert family_of(folder).facts(folder).writes_case


def test_a_style_that_nobody_knows_is_named(tmp_path):
    config = tmp_path / "pqm.yaml"
    config.write_text("target_style: mine\n")

    with pytest.raises(PqmError, match="target_style 'mine': use one of auto, corpus, model"):
        load_config(config)


def test_joined_alone_without_a_length_is_named(tmp_path):
    config = tmp_path / "pqm.yaml"
    config.write_text("adapt: {joined_alone: true}\n")

    with pytest.raises(PqmError, match="joined_alone without joined_s"):
        load_config(config)


@pytest.fixture
def in_style_of_the_model(recipe, tmp_path):
    """The recipe, learning from texts in the model's style."""
    config = tmp_path / "styled.yaml"
    config.write_text(recipe.pqm_config.read_text() + "target_style: model\n")
    return dataclasses.replace(recipe, pqm_config=config, systems=("nf4+speaker",))


def test_texts_in_the_models_style_are_those_of_its_own_greedy_words(in_style_of_the_model, run):
    run("data", "base", of=in_style_of_the_model)
    material = Material(in_style_of_the_model)
    utterances = material.utterances("sat_train")[:2]
    recognizer = open_base(in_style_of_the_model, "full").recognizer
    write_styles(in_style_of_the_model)

    found = styled(material, utterances)

    texts = [material.fit.apply(utterance.text) for utterance in utterances]
    for utterance, text, was in zip(found, texts, utterances, strict=True):
        [features] = [example.features for example in training_examples(recognizer, [was], material.fit, _ALONE, 0)]
        assert utterance.text == in_style(text, recognizer.greedy([features])[0])
        assert dataclasses.replace(utterance, text=was.text) == was


def test_texts_in_the_models_style_are_written_once_and_a_run_that_was_cut_off_goes_on(in_style_of_the_model, run):
    run("data", "base", of=in_style_of_the_model)
    path = style_file(in_style_of_the_model)
    write_styles(in_style_of_the_model)
    whole = path.read_bytes()
    kept = read_json(path)
    [first, second, *_] = kept["texts"]
    kept["texts"][second][1] = "Mark."
    del kept["texts"][first]
    path.write_text(json.dumps(kept))

    write_styles(in_style_of_the_model)

    again = read_json(path)["texts"]
    assert again[second][1] == "Mark."
    assert again[first] == json.loads(whole)["texts"][first]


def test_what_was_written_for_another_base_is_not_learned_from(in_style_of_the_model, run):
    run("data", "base", of=in_style_of_the_model)
    write_styles(in_style_of_the_model)
    path = style_file(in_style_of_the_model)
    kept = read_json(path)
    kept["made_for"]["base_sha256"] = "0" * 64
    path.write_text(json.dumps(kept))
    material = Material(in_style_of_the_model)

    with pytest.raises(PqmError, match="style.json lacks .* run stage 3"):
        styled(material, material.utterances("train"))


_ALONE = TrainOptions()


def test_joined_alone_leaves_single_only_what_fits_into_no_joined_example(recipe, run):
    run("data", "base")
    material = Material(recipe)
    utterances = material.utterances("sat_train")
    recognizer = open_base(recipe, "full").recognizer

    def n(**options):
        return len(training_examples(recognizer, utterances, material.fit, TrainOptions(**options), 0))

    both = n(joined_s=4.0, joined_copies=2)
    alone = n(joined_s=4.0, joined_copies=2, joined_alone=True)

    assert n() == len(utterances)
    assert 0 < alone < both
    assert both - alone <= len(utterances)


@pytest.mark.slow
def test_a_recipe_learns_in_the_models_style_and_its_request_says_so(recipe, in_style_of_the_model, run):
    other = in_style_of_the_model

    run("data", "base", "quantize", "pretrain", "adapt", of=other)

    for folder in (recipe.packed_dir / "sat", recipe.packed_dir / "speakers" / "10"):
        assert read_info(folder).request["target_style"] == MODEL
    before = (recipe.packed_dir / "sat" / "adapter_model.safetensors").read_bytes()
    run("pretrain", "adapt", of=other)
    assert (recipe.packed_dir / "sat" / "adapter_model.safetensors").read_bytes() == before
