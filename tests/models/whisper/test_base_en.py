"""The settings that recipes ship for Whisper base.en, on a model of its real shapes."""

from pathlib import Path

import pytest
from transformers import WhisperConfig, WhisperForConditionalGeneration

from pqm_plugin.adapters.lora import attach, parameter_counts
from pqm_plugin.models.whisper.model import Whisper
from pqm_plugin.quantize.checkpoint import load_packed, save_packed
from pqm_plugin.quantize.layers import quantize_layers
from pqm_plugin.quantize.packed import WeightFormat
from pqm_plugin.stages.config import load_config

SHIPPED = sorted((Path(__file__).resolve().parents[3] / "egs").glob("*/conf/whisper_base_en.yaml"))
SHAPE = {"layers": 6, "attention_heads": 8, "ffn_dim": 2048}
PARAMETERS = 72_593_408


@pytest.fixture
def recognizer():
    """Return base.en of random weights, as far as layers are asked for."""
    sides = {f"{side}_{name}": number for side in ("encoder", "decoder") for name, number in SHAPE.items()}
    recognizer = object.__new__(Whisper)
    recognizer.network = WhisperForConditionalGeneration(WhisperConfig(vocab_size=51864, d_model=512, **sides))
    assert sum(parameter.numel() for parameter in recognizer.network.parameters()) == PARAMETERS
    return recognizer


def test_recipes_ship_the_same_settings_with_double_quantization_and_the_whole_window():
    first, *others = [load_config(path) for path in SHIPPED]

    assert len(others) == 1 and others[0] == first
    assert first.quantize.double_quantize and not first.quantize.keep
    assert first.decode.context == "window"


@pytest.mark.slow
@pytest.mark.parametrize(("double_quantize", "times_smaller"), [(False, 6.9), (True, 7.5)])
def test_base_en_is_seven_times_smaller_and_holds_its_tied_weight_once(
    recognizer, double_quantize, times_smaller, tmp_path
):
    path = tmp_path / "model.safetensors"

    quantize_layers(
        recognizer.network, list(recognizer.layer_kinds()), WeightFormat(double_quantize=double_quantize), "small"
    )
    save_packed(path, recognizer.network, built_in=recognizer.built_in)

    assert 4 * PARAMETERS / path.stat().st_size >= times_smaller
    fresh = WhisperForConditionalGeneration(recognizer.network.config)
    load_packed(path, fresh)
    assert fresh.proj_out.packed is fresh.model.decoder.embed_tokens.packed


@pytest.mark.slow
def test_the_adapter_of_the_shipped_settings_has_about_one_percent(recognizer):
    lora = load_config(SHIPPED[0]).lora

    model = attach(recognizer.network, recognizer.adapter_targets(lora.targets), lora.rank, lora.alpha, lora.dropout)

    trainable, base = parameter_counts(model)
    assert 0.008 < trainable / base < 0.01
    assert base == PARAMETERS
