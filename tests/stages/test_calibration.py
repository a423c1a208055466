"""Stage 3 with speech: what it depends on, what it leaves, and what it says where there is none to listen to."""

import dataclasses

import pytest
import torch

from pqm_plugin.corpus.audio import duration_s
from pqm_plugin.files import read_json
from pqm_plugin.settings import as_dict
from pqm_plugin.stages.common.material import Material
from pqm_plugin.stages.common.opening import open_base
from pqm_plugin.stages.quantize import Calibration

WEIGHTS = ("nf4", "nf4-rtn")


@pytest.fixture
def calibrated(recipe, tmp_path):
    """Return the tiny recipe, calibrated on three SAT utterances."""
    config = tmp_path / "calibrated.yaml"
    config.write_text(recipe.pqm_config.read_text().replace("quantize: {", "quantize: {calibrate: 3, "))
    return dataclasses.replace(recipe, pqm_config=config)


def packed(recipe):
    return {kind: (recipe.adapter_dir(kind) / "model.safetensors").read_bytes() for kind in WEIGHTS}


def test_a_calibrated_recipe_packs_both_ways_in_files_of_one_size(calibrated, run):
    run("data", "base", "quantize", of=calibrated)

    files = packed(calibrated)
    assert files["nf4"] != files["nf4-rtn"]
    # The headers differ by nothing, so the sizes do not either.
    assert len(files["nf4"]) == len(files["nf4-rtn"])
    assert read_json(calibrated.packed_dir / "meta.json")["request"]["quantize"]["calibrate"] == 3


def test_the_calibrated_model_is_nearer_to_the_float_one_on_what_it_heard(calibrated, run):
    run("data", "base", "quantize", of=calibrated)
    calibration = Calibration(calibrated, calibrated.config.quantize)

    def heard(kind):
        recognizer = open_base(calibrated, kind).recognizer
        layers = [name for name in recognizer.layer_kinds() if name.endswith(("linear_q", "q_proj"))]
        outputs = {name: [] for name in layers}
        for name, found in outputs.items():
            layer = recognizer.network.get_submodule(name)
            layer.register_forward_hook(lambda layer, given, output, found=found: found.append(output))
        with torch.no_grad():
            for features, tokens in calibration.examples(recognizer):
                recognizer.loss([features], [tokens])
        return torch.cat([part.flatten() for found in outputs.values() for part in found])

    full, nearest, ours = (heard(kind) for kind in ("full", "nf4-rtn", "nf4"))

    assert (ours - full).norm() < 0.8 * (nearest - full).norm()


def test_packing_again_does_nothing_and_packing_anew_gives_the_same_bytes(calibrated, run, caplog):
    run("data", "base", "quantize", of=calibrated)
    before = packed(calibrated)
    caplog.clear()

    run("quantize", of=calibrated)
    assert caplog.text.count("is there already") == 2
    for kind in WEIGHTS:
        (calibrated.adapter_dir(kind) / "meta.json").unlink()
    run("quantize", of=calibrated)

    assert packed(calibrated) == before


def test_other_speech_packs_the_calibrated_model_anew_and_leaves_the_rounded_one(calibrated, run, caplog):
    run("data", "base", "quantize", of=calibrated)
    text = calibrated.data("sat") / "text"
    text.write_text(text.read_text().replace("WHO IS IT", "WHO IS"))
    caplog.clear()

    run("quantize", of=calibrated)

    assert "made with other settings (calibration)" in caplog.text
    assert f"{calibrated.adapter_dir('nf4-rtn') / 'model.safetensors'} is there already" in caplog.text


def test_utterances_are_heard_together_where_that_is_asked_for(calibrated, run):
    run("data", "base", of=calibrated)
    recognizer = open_base(calibrated, "full").recognizer
    calibration = Calibration(calibrated, calibrated.config.quantize)
    alone = list(calibration.examples(recognizer))
    longest_s = sum(duration_s(utterance) for utterance in calibration.utterances[:2]) + 0.01
    config = dataclasses.replace(calibrated.config.quantize, joined_s=longest_s)

    together = list(Calibration(calibrated, config).examples(recognizer))

    assert (len(alone), len(together)) == (3, 2)
    (features, tokens), last = together
    assert len(features) > max(len(each) for each, _ in alone[:2])
    assert len(tokens) >= sum(len(each) for _, each in alone[:2])
    assert torch.equal(last[1], alone[2][1])
    assert as_dict(config)["joined_s"] == longest_s
    assert "joined_s" not in as_dict(calibrated.config.quantize)


def test_utterances_are_spread_over_the_sat_speakers(calibrated, run):
    run("data", of=calibrated)

    chosen = Calibration(calibrated, calibrated.config.quantize).utterances

    assert [each.utterance for each in chosen] == ["30-1-0000", "30-1-0002", "31-1-0001"]


def test_without_sat_speakers_weights_are_rounded_by_the_targets_training_speech_and_the_models_own_words(
    calibrated, run, tmp_path
):
    alone = dataclasses.replace(calibrated, sat_sets=(), expdir=tmp_path / "alone", datadir=tmp_path / "data_alone")
    run("data", "base", of=alone)
    calibration = Calibration(alone, alone.config.quantize)
    assert {each.utterance for each in calibration.utterances} <= {
        each.utterance for each in Material(alone).utterances("train")
    }
    recognizer = open_base(alone, "full").recognizer

    heard = list(calibration.examples(recognizer))

    assert heard
    for features, tokens in heard:
        written = recognizer.token_ids(recognizer.greedy([features])[0]).tolist()
        assert tokens.tolist() == written[: len(tokens)]
    run("quantize", of=alone)
    assert read_json(alone.packed_dir / "meta.json")["request"]["calibration"]


def test_nearest_levels_need_no_speech(recipe, run):
    alone = dataclasses.replace(recipe, sat_sets=())
    run("data", "base", "quantize", of=alone)

    assert not alone.adapter_dir("nf4-rtn").exists()
    assert "calibration" not in read_json(alone.packed_dir / "meta.json")["request"]


@pytest.mark.slow
def test_the_rounded_model_is_decoded_and_compared_as_a_system_of_its_own(calibrated, run):
    keys = ("full", "nf4-rtn", "nf4")
    run("data", "base", "quantize", "decode", "score", of=dataclasses.replace(calibrated, systems=keys))

    results = read_json(calibrated.packed_dir / "results.json")
    assert list(results["systems"]) == ["full", "nf4-rtn", "nf4"]
    assert ("nf4-rtn", "nf4") in {(row["system"], row["against"]) for row in results["comparisons"]}
