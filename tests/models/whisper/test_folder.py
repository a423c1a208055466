"""Whisper folders in the forms in which they are published become one form; a hub is asked for names."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from pqm_plugin.errors import PqmError
from pqm_plugin.models.families import family_of, fetch_base
from pqm_plugin.models.options import SearchOptions

NAME = "someone/whisper-tiny"
FETCH = "import sys; from pathlib import Path; from pqm_plugin.models.families import fetch_base; " + (
    "print(fetch_base(sys.argv[1], Path(sys.argv[2])).NAME)"
)


@pytest.fixture
def published(tiny_whisper, tmp_path):
    return shutil.copytree(tiny_whisper, tmp_path / "published")


def same_weights(one, other):
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (one, other))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_float32_folder_is_copied_byte_for_byte(tiny_whisper, tmp_path):
    fetch_base(str(tiny_whisper), tmp_path / "out")

    for name in ("model.safetensors", "config.json", "tokenizer.json", "preprocessor_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tiny_whisper / name).read_bytes()


def test_float16_weights_become_float32_and_the_tied_output_layer_goes(published, tmp_path):
    state = {name: value.half() for name, value in load_file(published / "model.safetensors").items()}
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"].clone()
    save_file(state, published / "model.safetensors")

    fetch_base(str(published), tmp_path / "out")

    found = load_file(tmp_path / "out/model.safetensors")
    assert "proj_out.weight" not in found
    assert all(torch.equal(value, state[name].float()) for name, value in found.items())


@pytest.mark.parametrize("form", ["shards", "bin"])
def test_shards_and_older_checkpoints_become_one_file(published, tiny_whisper, tmp_path, form):
    state = load_file(published / "model.safetensors")
    (published / "model.safetensors").unlink()
    if form == "bin":
        torch.save(state, published / "pytorch_model.bin")
    else:
        halves = [dict(list(state.items())[place::2]) for place in (0, 1)]
        names = [f"model-{place}-of-2.safetensors" for place in (1, 2)]
        for name, half in zip(names, halves, strict=True):
            save_file(half, published / name)
        where = {key: name for name, half in zip(names, halves, strict=True) for key in half}
        (published / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))

    fetch_base(str(published), tmp_path / "out")

    assert same_weights(tmp_path / "out", tiny_whisper)


@pytest.mark.parametrize("lost", ["preprocessor_config.json", "tokenizer.json", "model.safetensors"])
def test_a_file_that_is_lacking_is_named(published, tmp_path, lost):
    (published / lost).unlink()

    with pytest.raises(PqmError, match=lost):
        fetch_base(str(published), tmp_path / "out")


def test_damaged_weights_and_weights_of_another_shape_are_named(published, tmp_path):
    state = load_file(published / "model.safetensors")
    save_file(state | {"model.encoder.conv1.bias": torch.zeros(3)}, published / "model.safetensors")
    with pytest.raises(PqmError, match=r"does not fit .*config\.json"):
        family_of(published).load_float(published, SearchOptions(), "cpu")
    (published / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(PqmError, match="damaged"):
        fetch_base(str(published), tmp_path / "out")


def test_a_shard_outside_of_the_folder_is_refused(published, tmp_path):
    (published / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    index = {"weight_map": {"model.encoder.conv1.bias": "../elsewhere.safetensors"}}
    (published / "model.safetensors.index.json").write_text(json.dumps(index))

    with pytest.raises(PqmError, match="not beside it"):
        fetch_base(str(published), tmp_path / "out")


@pytest.mark.slow
def test_a_name_is_brought_from_the_hub_and_is_there_again_without_it(published, serve_hub, python_with_hub, tmp_path):
    hub = serve_hub(published, NAME)

    first = python_with_hub(hub.port, "-c", FETCH, NAME, str(tmp_path / "one"))

    assert first.stdout.strip() == "Whisper", first.stderr
    assert same_weights(tmp_path / "one", published)
    hub.stop()
    again = python_with_hub(hub.port, "-c", FETCH, NAME, str(tmp_path / "two"))
    assert again.stdout.strip() == "Whisper", again.stderr
    assert same_weights(tmp_path / "two", published)


@pytest.mark.slow
def test_a_hub_out_of_reach_is_one_line_that_says_what_to_download_and_where_to_put_it(
    published, serve_hub, python_with_hub, tmp_path
):
    hub = serve_hub(published, NAME)
    hub.stop()

    done = python_with_hub(hub.port, "-m", "pqm_plugin", "base", "--base", "openai/whisper-base.en", "--expdir", "exp")

    assert done.returncode == 1
    [line] = [line for line in done.stderr.strip().splitlines() if "Flash Attention" not in line]
    assert line.startswith("pqm base: --base openai/whisper-base.en: the Hugging Face hub could not be reached (")
    assert (
        "download config.json, generation_config.json, preprocessor_config.json, tokenizer.json and model.saf" in line
    )
    assert line.endswith("put them into one folder, and give that as --base")
