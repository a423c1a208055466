"""A model of another tool is called what it is, with the way on, wherever a model can be named."""

import json
import struct

import pytest

from pqm_plugin.errors import PqmError
from pqm_plugin.models.families import fetch_base
from pqm_plugin.personal.folder import ModelFolder

ADAPTER = {"peft_type": "LORA", "base_model_name_or_path": "openai/whisper-base"}
CASES = {
    "ggml-tiny.en.bin": (b"lmgg" + bytes(20), "a ggml file of whisper.cpp.*openai/whisper-tiny.en"),
    "model.gguf": (b"GGUF" + bytes(20), "a GGUF file.*give the model that it was made of"),
    "quartz.nemo": (b"tar", "a NeMo model"),
    "encoder.onnx": (b"graph", "an ONNX graph"),
    "model.safetensors": (b"weights", "weights without their configuration: give the folder"),
    "adapter/adapter_config.json": (json.dumps(ADAPTER).encode(), "a PEFT adapter of openai/whisper-base, not a model"),
    "wav2vec/config.json": (b'{"model_type": "wav2vec2"}', "a wav2vec2 model of Hugging Face"),
    "onnx/onnx/encoder_model.onnx": (b"graph", "an ONNX model"),
    "ggml/ggml-base.bin": (b"lmgg" + bytes(20), r"the folder of ggml-base.bin, a ggml file"),
    "other/model.bin": (struct.pack("<IH", 6, 16) + b"TransformerSpec\0", "a TransformerSpec model of CTranslate2"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_no_model_of_here_is_named_with_the_way_on(tmp_path, name):
    content, message = CASES[name]
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(content)
    place = tmp_path / name.split("/")[0]

    for take in (lambda: fetch_base(str(place), tmp_path / "out"), lambda: ModelFolder.of(place)):
        with pytest.raises(PqmError, match=message) as error:
            take()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "hub"), [("tiny.en", "whisper-tiny.en"), ("turbo", "whisper-large-v3-turbo")])
def test_short_names_of_faster_whisper_lead_to_the_hub(tmp_path, name, hub):
    with pytest.raises(PqmError, match=f"give openai/{hub}$"):
        fetch_base(name, tmp_path / "out")


def test_adapters_and_float_models_are_named_where_a_packed_model_is_wanted(tiny_whisper, tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(PqmError, match="a PEFT adapter that does not name its base"):
        ModelFolder.of(tmp_path)
    (tmp_path / "pqm.json").write_text("{}")
    with pytest.raises(PqmError, match="the adapter of a personal model, not a model: give the model's folder"):
        ModelFolder.of(tmp_path)
    with pytest.raises(PqmError, match=r"in full precision .*: pack it first, with `pqm quantize"):
        ModelFolder.of(tiny_whisper)
