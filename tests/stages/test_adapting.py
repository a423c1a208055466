"""What stage 5 learns from: so many minutes, other settings, and the model's own words."""

import dataclasses
import json

import pytest
from safetensors.torch import load_file

from pqm_plugin.adapters.files import read_info
from pqm_plugin.files import read_json
from pqm_plugin.stages.adapt import allowed_speech, speech_of
from pqm_plugin.stages.common.material import Material
from pqm_plugin.stages.common.systems import AdapterSet


@pytest.fixture
def changed(recipe, tmp_path):
    """Return a function that gives the recipe with more in its YAML, and with other fields."""

    def change(yaml: str = "", **fields):
        config = tmp_path / f"changed{len(list(tmp_path.glob('changed*')))}.yaml"
        config.write_text(recipe.pqm_config.read_text() + yaml)
        return dataclasses.replace(recipe, pqm_config=config, **fields)

    return change


def test_so_many_minutes_are_the_first_utterances_two_thirds_of_them_to_train_on(changed, run):
    # Utterances of a second each; 0.06 minutes are 3.6 seconds, 2.4 of them for train.
    few = changed("adapt_minutes: 0.06\n")
    run("data", "base", of=few)

    chosen = {minutes: Material(changed(f"adapt_minutes: {minutes}\n")) for minutes in (0.06, 0.001, 0)}

    names = {
        minutes: [found.utterance for found in allowed_speech(material, "train", "10")]
        for minutes, material in chosen.items()
    }
    assert len(names[0]) == 2
    assert names[0.06] == names[0]
    assert names[0.001] == names[0][:1]


@pytest.mark.slow
def test_other_training_settings_and_fewer_minutes_train_again_and_nothing_else_does(changed, run, caplog):
    run("data", "base", "quantize", "pretrain", "adapt", of=changed())
    caplog.clear()

    run("adapt", of=changed())
    run("adapt", of=changed("adapt_minutes: 0.001\n"))
    slower = changed()
    slower.pqm_config.write_text(slower.pqm_config.read_text().replace("adapt: {epochs: 2", "adapt: {epochs: 1"))
    run("adapt", of=slower)

    counts = [record.getMessage().split(": ")[1] for record in caplog.records if "to adapt" in record.getMessage()]
    assert counts == [
        "0 speakers to adapt, 2 done already",
        "2 speakers to adapt, 0 done already",
        "2 speakers to adapt, 0 done already",
    ]


@pytest.mark.slow
def test_without_transcripts_the_adapter_learns_the_models_own_words_where_it_is_sure(changed, run):
    systems = ("nf4+speaker-unsup2",)
    recipe = changed("unsupervised: {min_confidence: -100}\n", systems=systems)
    everything = ("data", "base", "quantize", "pretrain", "adapt", "decode", "score")

    run(*everything, of=recipe)

    assert list(read_json(recipe.packed_dir / "results.json")["systems"]) == list(systems)
    material = Material(recipe)
    heard = speech_of(material, AdapterSet("nf4", 1), "10")
    words = {
        line["utterance"]: line["text"]
        for name in ("train", "dev")
        for line in map(
            json.loads,
            (recipe.decode_dir("nf4+sat", f"dev_{name}") / "parts/10.jsonl").read_text().splitlines()[1:],
        )
    }
    for utterance in (*heard.train, *heard.dev):
        assert utterance.text == words[utterance.utterance]
    assert not (recipe.packed_dir / "speakers").exists()
    folders = [recipe.packed_dir / name / "10" for name in ("speakers-unsup", "speakers-unsup2")]
    assert all(read_info(folder).trained_on == "10" for folder in folders)


@pytest.mark.slow
def test_a_second_decoding_setting_does_not_change_what_is_learned_without_transcripts(changed, run, caplog, tmp_path):
    recipe = changed("unsupervised: {min_confidence: -100}\n", systems=("nf4+speaker-unsup",))
    greedy = tmp_path / "greedy.yaml"
    greedy.write_text("{beam_size: 1, ctc_weight: 1.0}")
    run("data", "base", "quantize", "pretrain", "adapt", of=recipe)
    caplog.clear()

    run("adapt", of=dataclasses.replace(recipe, inference_config=greedy, tag="greedy"))

    assert "0 speakers to adapt, 2 done already" in caplog.text
    assert not recipe.decode_dir("nf4+sat", "dev_train_greedy").exists()


@pytest.mark.slow
def test_a_model_that_is_sure_of_nothing_learns_from_what_it_is_surest_of(changed, run):
    recipe = changed("unsupervised: {min_confidence: 100}\n", systems=("nf4+speaker-unsup",))

    run("data", "base", "quantize", "pretrain", "adapt", of=recipe)

    speech = speech_of(Material(recipe), AdapterSet("nf4", 1), "10")
    assert len(speech.train) == len(speech.dev) == 1


@pytest.mark.slow
def test_nothing_is_learned_from_own_words_that_repeat_themselves(changed, run):
    recipe = changed("unsupervised: {min_confidence: -100}\n", systems=("nf4+speaker-unsup",))
    run("data", "base", "quantize", "pretrain", "adapt", of=recipe)
    [part] = recipe.decode_dir("nf4+sat", "dev_train").glob("parts/10.jsonl")
    head, *rows = [json.loads(line) for line in part.read_text().splitlines()]
    rows = [row | {"text": "GO ON", "score": -0.1} for row in rows]
    rows[0]["text"] = "GO " * 60
    part.write_text("".join(f"{json.dumps(row)}\n" for row in (head, *rows)))

    speech = speech_of(Material(recipe), AdapterSet("nf4", 1), "10")

    assert [found.utterance for found in speech.train] == sorted(row["utterance"] for row in rows[1:])


@pytest.mark.slow
def test_settings_are_chosen_on_dev_utterances_in_files_of_their_own(recipe, run):
    recipe = dataclasses.replace(recipe, systems=("nf4", "nf4+sat"), split="dev")

    run("data", "base", "quantize", "pretrain", "decode", "score", of=recipe)

    results = read_json(recipe.packed_dir / "results_dev.json")
    assert results["meta"]["split"] == "dev"
    assert results["systems"]["nf4"]["utterances"] == len(Material(recipe).utterances("dev"))
    assert not (recipe.packed_dir / "results.json").exists()


@pytest.mark.slow
def test_a_variant_has_a_model_and_adapters_of_its_own_beside_the_first(recipe, run):
    other = dataclasses.replace(recipe, variant="b", systems=("nf4+sat",))

    run("data", "base", "quantize", of=recipe)
    run("quantize", "pretrain", of=other)

    assert other.packed_dir.name == f"{recipe.packed_dir.name}-b"
    assert (other.packed_dir / "sat" / "adapter_model.safetensors").is_file()
    assert not (recipe.packed_dir / "sat").exists()


@pytest.mark.slow
def test_with_no_epoch_of_pretraining_a_speakers_adapter_starts_from_nothing(recipe, run, tmp_path):
    config = tmp_path / "from_nothing.yaml"
    config.write_text(recipe.pqm_config.read_text().replace("pretrain: {epochs: 2", "pretrain: {epochs: 0"))
    alone = dataclasses.replace(recipe, pqm_config=config, systems=("nf4", "nf4+speaker"))

    run("data", "base", "quantize", "pretrain", "adapt", "decode", "score", of=alone)

    factors = load_file(recipe.packed_dir / "sat" / "adapter_model.safetensors")
    assert all(not values.any() for name, values in factors.items() if "lora_B" in name)
    assert [row["epoch"] for row in read_info(recipe.packed_dir / "speakers" / "10").log] == [0, 1, 2]
    assert set(read_json(recipe.packed_dir / "results.json")["systems"]) == {"nf4", "nf4+speaker"}
