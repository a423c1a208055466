"""The baselines of Whisper: transformers' own generation, whose words full precision has, and its dynamic int8."""

import json
import shutil

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from pqm_plugin.errors import PqmError
from pqm_plugin.models.families import family_of
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.models.stock_worker import _in_int8

SEARCH = SearchOptions(beam_size=2)


class OwnLinear(nn.Linear):
    """As openai-whisper's: torch's dynamic int8 passes over it."""


@pytest.fixture
def clips(tmp_path):
    """Noise that fits the window, by name, as files that `wav.scp` lists."""
    made = {
        f"clip{seed}": np.random.default_rng(seed).normal(size=int(16000 * seconds)).astype("float32") * 0.1
        for seed, seconds in enumerate((0.4, 1.0, 2.0))
    }
    listed(tmp_path, made)
    return made


def listed(folder, clips):
    for name, clip in clips.items():
        soundfile.write(folder / f"{name}.wav", clip, 16000, "FLOAT")
    (folder / "wav.scp").write_text("".join(f"{name} {folder / name}.wav\n" for name in clips))


def stock(base, out, search=SEARCH, key="stock"):
    return family_of(base).decode_stock(key, base, out / "wav.scp", out, search, out / f"{key}.log")


def ours(base, clips, search=SEARCH):
    recognizer = family_of(base).load_float(base, search, "cpu")
    recognizer.network.eval()
    return {name: found.text for name, found in zip(clips, recognizer.recognize(list(clips.values())), strict=True)}


@pytest.mark.slow
def test_full_precision_says_the_words_of_transformers_and_int8_is_smaller(tiny_whisper, clips, tmp_path):
    found, int8 = stock(tiny_whisper, tmp_path), stock(tiny_whisper, tmp_path, key="int8")

    size_bytes = (tiny_whisper / "model.safetensors").stat().st_size
    assert dict(found.hypotheses) == ours(tiny_whisper, clips)
    assert found.model_bytes == size_bytes
    assert json.loads((tmp_path / "int8.json").read_text())["layers"] == 17
    assert int8.hypotheses.keys() == clips.keys()


@pytest.mark.slow
@pytest.mark.parametrize("flag", [{"is_multilingual": True}, {}], ids=["as published today", "of an older version"])
def test_greedy_words_in_a_language_of_several_are_those_of_transformers(tiny_whisper, clips, tmp_path, flag):
    base, search = shutil.copytree(tiny_whisper, tmp_path / "base"), SearchOptions(beam_size=1, language="de")
    config = json.loads((base / "generation_config.json").read_text())
    config |= {"lang_to_id": {"<|en|>": 10, "<|de|>": 11}, "task_to_id": {"transcribe": 12, "translate": 13}}
    del config["is_multilingual"]
    (base / "generation_config.json").write_text(json.dumps(config | flag))

    assert dict(stock(base, tmp_path, search).hypotheses) == ours(base, clips, search)


@pytest.mark.slow
def test_audio_beyond_the_window_is_decoded_by_transformers_own_way_to_its_end(tiny_whisper, tmp_path):
    clip = np.random.default_rng(0).normal(size=5 * 16000).astype("float32") * 0.1
    greedy = SearchOptions(beam_size=1)
    listed(tmp_path, {"long": clip, "short": clip[: 2 * 16000]})

    found = stock(tiny_whisper, tmp_path, greedy).hypotheses

    assert len(found["long"]) > len(found["short"]) > 0


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.Conv1d(1, 1, 1)), "left 0 of 0 linear layers in float"),
        (nn.Sequential(nn.Linear(2, 2), OwnLinear(2, 2)), "left 1 of 2 linear layers in float: the int8 row would lie"),
    ],
)
def test_int8_that_leaves_a_layer_as_it_was_is_no_baseline(network, message, tmp_path):
    with pytest.raises(SystemExit, match=message):
        _in_int8(network, tmp_path / "int8.json")

    assert not (tmp_path / "int8.json").exists()


def test_int8_of_linear_layers_says_how_many_and_how_large_they_are(tmp_path):
    network = _in_int8(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)), tmp_path / "int8.json")

    record = json.loads((tmp_path / "int8.json").read_text())
    assert record["layers"] == 2
    assert 2 * 64 * 64 < record["model_bytes"] < 4 * 64 * 64
    assert network(torch.zeros(1, 64)).shape == (1, 64)


@pytest.mark.slow
def test_what_stops_the_stock_tool_is_the_last_line_of_its_log(tiny_whisper, clips, tmp_path):
    base = shutil.copytree(tiny_whisper, tmp_path / "base")
    (base / "model.safetensors").write_bytes(b"damaged")

    with pytest.raises(PqmError, match=r"stock decoding failed \(.*(safetensors|[Hh]eader).*\): see .*stock\.log"):
        stock(base, tmp_path)
