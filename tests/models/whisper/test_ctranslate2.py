"""CTranslate2 folders become Hugging Face folders with the same weights, whatever precision they are in."""

import json
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from pqm_plugin.errors import PqmError
from pqm_plugin.models.families import family_of, fetch_base, source_files
from pqm_plugin.models.options import SearchOptions

ctranslate2 = pytest.importorskip("ctranslate2")
POSITIONS = "model.encoder.embed_positions.weight"
CLIP = "data/LibriSpeech/dev-clean/1272/128104/1272-128104-0000.flac"
EXACT = {"float32": 0.0, "float16": 0.0, "int8": 1 / 254, "int8_float16": 1 / 254, "int16": 1 / 2**11, "bfloat16": 0.0}


def converted(folder, out, quantization, **changes):
    """A CTranslate2 folder of a Hugging Face one, by CTranslate2's own converter."""
    from ctranslate2.converters import TransformersConverter

    converter = TransformersConverter(str(folder), copy_files=["tokenizer.json"])
    converter.convert(str(out), quantization=quantization)
    if changes:
        config = json.loads((out / "config.json").read_text())
        (out / "config.json").write_text(json.dumps(config | changes))
    return out


def words(folder):
    recognizer = family_of(folder).load_float(folder, SearchOptions(beam_size=2), "cpu")
    recognizer.network.eval()
    generator = np.random.default_rng(0)
    return [found.text for found in recognizer.recognize([generator.normal(0, 0.1, 16000).astype("float32")])]


def rounded(folder, out, dtype):
    """The same model with weights that a precision holds exactly."""
    shutil.copytree(folder, out)
    state = load_file(out / "model.safetensors")
    state = {name: value if name == POSITIONS else value.to(dtype).float() for name, value in state.items()}
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    return out


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["float32", "float16", "bfloat16"])
def test_a_folder_in_floats_gives_the_weights_words_and_settings_of_the_original(tiny_whisper, tmp_path, quantization):
    original = rounded(tiny_whisper, tmp_path / "original", getattr(torch, quantization))
    folder = converted(original, tmp_path / "ct2", quantization)

    fetch_base(str(folder), tmp_path / "base")

    expected, found = (load_file(path / "model.safetensors") for path in (original, tmp_path / "base"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert words(tmp_path / "base") == words(original)
    settings = [json.loads((path / "generation_config.json").read_text()) for path in (original, tmp_path / "base")]
    same = ("eos_token_id", "decoder_start_token_id", "no_timestamps_token_id", "max_length", "is_multilingual")
    assert [settings[0][name] for name in same] == [settings[1][name] for name in same]


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["int8", "int8_float16", "int16"])
def test_a_folder_in_whole_numbers_is_read_by_its_scales_and_what_is_lost_is_said(
    tiny_whisper, tmp_path, quantization, caplog
):
    folder = converted(tiny_whisper, tmp_path / "ct2", quantization)

    fetch_base(str(folder), tmp_path / "base")

    expected, found = (load_file(path / "model.safetensors") for path in (tiny_whisper, tmp_path / "base"))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        most = float(value.abs().max())
        assert float((found[name] - value).abs().max()) <= most * (EXACT[quantization] + 2**-11) * 1.01, name
    assert any(not torch.equal(found[name], expected[name]) for name in expected)
    assert f"is in {quantization.partition('_')[0]}: its matrices were rounded when it was made" in caplog.text


@pytest.mark.slow
def test_suppressed_tokens_and_alignment_heads_are_those_of_the_folder(tiny_whisper, tmp_path):
    folder = converted(
        tiny_whisper, tmp_path / "ct2", "float32", suppress_ids=[3, 4], suppress_ids_begin=[5], alignment_heads=[[0, 1]]
    )

    fetch_base(str(folder), tmp_path / "base")

    settings = json.loads((tmp_path / "base/generation_config.json").read_text())
    assert (settings["suppress_tokens"], settings["begin_suppress_tokens"]) == ([3, 4], [5])
    assert settings["alignment_heads"] == [[0, 1]]


@pytest.mark.slow
def test_an_own_output_matrix_comes_along(tiny_whisper, tmp_path):
    original = untied(tiny_whisper, tmp_path / "original")
    folder = converted(original, tmp_path / "ct2", "float32")

    fetch_base(str(folder), tmp_path / "base")

    expected, found = (load_file(path / "model.safetensors") for path in (original, tmp_path / "base"))
    assert torch.equal(found["proj_out.weight"], expected["proj_out.weight"])
    assert words(tmp_path / "base") == words(original)


def untied(folder, out):
    shutil.copytree(folder, out)
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    state = load_file(out / "model.safetensors")
    torch.manual_seed(1)
    state["proj_out.weight"] = torch.randn_like(state["model.decoder.embed_tokens.weight"])
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    return out


@pytest.mark.slow
def test_a_folder_of_ctranslate2_is_packed_and_is_a_base_of_the_recipe(tiny_whisper, tmp_path):
    from pqm_plugin.personal.making import quantize

    folder = converted(tiny_whisper, tmp_path / "ct2", "float16")

    meta = quantize(str(folder), tmp_path / "packed")

    assert meta["family"] == "Whisper"
    assert source_files(folder) == [folder / "model.bin"]


def test_damaged_older_and_other_model_files_are_one_line(tiny_whisper, tmp_path):
    folder = tmp_path / "ct2"
    folder.mkdir()
    head = struct.pack("<IH", 6, 12) + b"WhisperSpec\0"
    tensor = struct.pack("<H", 2) + b"a\0" + struct.pack("<BIBI", 1, 3, 0, 12)
    for content, message in (
        (head, "damaged"),
        (head + struct.pack("<II", 3, 1) + tensor + b"short", "damaged"),
        (head + struct.pack("<II", 3, 1) + tensor.replace(b"\x0c", b"\x08") + b"12345678", "damaged"),
        (head + struct.pack("<III", 3, 0, 0), "lacks parts of a Whisper model"),
        (struct.pack("<I", 9) + head[4:], "version 9 of CTranslate2's format"),
        (struct.pack("<IH", 6, 16) + b"TransformerSpec\0", "a TransformerSpec model of CTranslate2, no Whisper"),
    ):
        (folder / "model.bin").write_bytes(content)
        (folder / "config.json").write_text("{}")
        with pytest.raises(PqmError, match=message) as error:
            fetch_base(str(folder), tmp_path / "out")
        assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_tokeniser_that_lacks_merges_or_is_another_models_is_refused_with_the_remedy(tiny_whisper, tmp_path):
    folder = converted(tiny_whisper, tmp_path / "ct2", "float32")
    content = json.loads((folder / "tokenizer.json").read_text())
    vocab = content["model"]["vocab"]
    content["model"]["vocab"] = {name: place for name, place in vocab.items() if name != "ab"} | {"Ġt": 258}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(PqmError, match=r"has 0 merges and cannot make 1 of its tokens, such as 'Ġt'.*take tokenizer"):
        fetch_base(str(folder), tmp_path / "out")
    content["model"]["vocab"] = vocab
    content["added_tokens"].append(content["added_tokens"][0] | {"id": 300, "content": "<|de|>"})
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(PqmError, match="has 301 tokens, the model 259: it is another model's"):
        fetch_base(str(folder), tmp_path / "out")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(PqmError, match=r"vocab\.json cannot be read .*: take it from where the model was published"):
        fetch_base(str(folder), tmp_path / "out")


@pytest.mark.real
@pytest.mark.slow
def test_the_genuine_model_that_PQM_WHISPER_names_is_read_and_hears(shared, tmp_path):  # noqa: N802
    if not os.environ.get("PQM_WHISPER"):
        pytest.skip("PQM_WHISPER names no CTranslate2 folder of a genuine Whisper model")
    folder = Path(os.environ["PQM_WHISPER"])
    fetch_base(str(folder), tmp_path / "base")

    recognizer = family_of(tmp_path / "base").load_float(tmp_path / "base", SearchOptions(), "cpu")
    recognizer.network.eval()
    audio, _ = soundfile.read(shared / CLIP, dtype="float32")
    [found] = recognizer.recognize([audio])

    assert recognizer.built_in == {POSITIONS}
    assert found.text.startswith("Mr. Quilter is the apostle of the middle classes")
    ids = recognizer.token_ids("the cat").tolist()
    assert len(ids) == 2
