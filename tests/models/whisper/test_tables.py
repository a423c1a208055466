"""Settings of generation that folders have or lack: read as transformers reads them, or one line."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pqm_plugin.errors import PqmError
from pqm_plugin.models.families import family_of, fetch_base
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.models.whisper.tables import made_of, read_prompt, read_settings
from pqm_plugin.personal.making import quantize
from pqm_plugin.quantize.checkpoint import load_packed

SPECIAL = {"<|endoftext|>": 50257, "<|startoftranscript|>": 50258, "<|en|>": 50259, "<|de|>": 50261} | {
    **{"<|translate|>": 50358, "<|transcribe|>": 50359, "<|notimestamps|>": 50363},
}


@pytest.fixture
def published(tiny_whisper, tmp_path):
    return shutil.copytree(tiny_whisper, tmp_path / "published")


@pytest.fixture
def several(tiny_whisper, tmp_path):
    """A model whose tokeniser has two languages and two tasks, with all tables."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration, WhisperTokenizer

    folder = shutil.copytree(tiny_whisper, tmp_path / "several")
    tokenizer = WhisperTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    config = WhisperConfig.from_pretrained(folder, vocab_size=len(tokenizer))
    torch.manual_seed(0)
    generation = changed(folder)
    WhisperForConditionalGeneration(config).save_pretrained(folder)
    (folder / "generation_config.json").write_text(generation)
    tables = {"lang_to_id": {"<|en|>": 259, "<|de|>": 260}, "task_to_id": {"translate": 261, "transcribe": 262}}
    changed(folder, is_multilingual=True, **tables)
    return folder


def changed(folder, name="generation_config.json", without=(), **values):
    content = json.loads((folder / name).read_text()) | values
    text = json.dumps({key: value for key, value in content.items() if key not in without})
    (folder / name).write_text(text)
    return text


GREEDY = SearchOptions(beam_size=1)


def words(folder, search=GREEDY, packed=False):
    if packed:
        recognizer = family_of(folder).load_skeleton(folder, search, "cpu")
        load_packed(folder / "model.safetensors", recognizer.network)
    else:
        recognizer = family_of(folder).load_float(folder, search, "cpu")
    recognizer.network.eval()
    clips = [np.random.default_rng(seed).normal(size=16000).astype("float32") * 0.1 for seed in range(3)]
    return [found.text for found in recognizer.recognize(clips)]


def stock_words(folder, **options):
    """What plain transformers writes of the same clips."""
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    network, processor = (
        WhisperForConditionalGeneration.from_pretrained(folder),
        WhisperProcessor.from_pretrained(folder),
    )
    clips = [np.random.default_rng(seed).normal(size=16000).astype("float32") * 0.1 for seed in range(3)]
    found = []
    for clip in clips:
        mel = processor(clip, sampling_rate=16000, return_tensors="pt").input_features
        ids = network.eval().generate(mel, num_beams=1, **options)
        found.append(" ".join(processor.batch_decode(ids, skip_special_tokens=True)[0].split()))
    return found


def test_ends_in_a_list_are_heard_as_transformers_hears_them_and_the_packed_model_too(published, tmp_path):
    expected = words(published)
    changed(published, eos_token_id=[256])
    assert words(published) == expected == stock_words(published)

    quantize(str(published), tmp_path / "packed")

    assert words(tmp_path / "packed", packed=True)
    assert json.loads((tmp_path / "packed/generation_config.json").read_text())["eos_token_id"] == 256


def test_of_several_ends_each_one_ends_the_text(published):
    first = family_of(published).load_float(published, SearchOptions(beam_size=1), "cpu")
    text = words(published)[0]
    early = first.token_ids(text[2:3]).tolist()[-1]
    changed(published, eos_token_id=[256, early])

    # transformers stops there, too, and leaves the end that is a letter standing.
    assert words(published) == [
        said.removesuffix(chr(early + 33) if early < 94 else "") for said in stock_words(published)
    ]
    assert read_prompt(published, "en").text_of([257, 258, 5, early, 6, 256]) == [5]


@pytest.mark.parametrize("length", [None, 20, 0, -1, 10_000])
def test_the_limit_is_the_decoders_own_positions(published, tmp_path, length):
    changed(published, max_length=length, suppress_tokens=[256])
    changed(published, without=["max_length"] if length is None else [])

    fetch_base(str(published), tmp_path / "base")

    assert read_settings(published)["max_length"] == 24
    assert words(published) == words(tmp_path / "base") == stock_words(tmp_path / "base")
    recognizer = family_of(published).load_float(published, SearchOptions(beam_size=1), "cpu")
    [found] = recognizer.recognize([np.zeros(8000, dtype="float32")])
    assert found.n_tokens == 22


@pytest.mark.parametrize("lost", [["task_to_id"], ["lang_to_id"], ["is_multilingual"], ["no_timestamps_token_id"]])
def test_a_table_that_is_lacking_is_made_of_the_tokeniser(several, tmp_path, lost):
    german = SearchOptions(beam_size=1, language="de")
    prompt, expected = read_prompt(several, "de"), words(several, german)
    changed(several, without=lost)

    fetch_base(str(several), tmp_path / "base")

    assert read_prompt(several, "de").tokens == prompt.tokens == (257, 260, 262, 258)
    assert words(several, german) == expected
    assert stock_words(tmp_path / "base", language="de", task="transcribe") == expected


def test_an_old_folder_without_any_table_is_taken_for_what_its_tokeniser_is(several, published, tmp_path):
    prompt = read_prompt(several, "de").tokens
    changed(several, without=["is_multilingual", "lang_to_id", "task_to_id", "no_timestamps_token_id"])
    assert read_prompt(several, "de").tokens == prompt
    (several / "generation_config.json").unlink()
    assert read_prompt(several, "de").tokens == prompt

    (published / "generation_config.json").unlink()
    fetch_base(str(published), tmp_path / "base")
    assert read_prompt(tmp_path / "base", "en").tokens == (257, 258)
    assert words(tmp_path / "base") == words(published)


@pytest.mark.parametrize(("vocab_size", "expected"), [(51864, False), (51865, True), (51866, True)])
def test_the_size_of_the_vocabulary_tells_a_multilingual_model(vocab_size, expected):
    # English tokenisers name languages, too.
    found = made_of(SPECIAL, vocab_size, 448)

    assert found["is_multilingual"] is expected
    assert ("lang_to_id" in found) is expected
    assert found.get("lang_to_id", {"<|en|>": 50259, "<|de|>": 50261}) == {"<|en|>": 50259, "<|de|>": 50261}
    assert found.get("task_to_id", {"transcribe": 50359})["transcribe"] == 50359


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"eos_token_id": "end"}, "eos_token_id 0 is 'end'"),
        ({"eos_token_id": [256, 9999]}, "eos_token_id 1 is 9999, no token of a vocabulary of 263"),
        ({"lang_to_id": {"<|en|>": None}}, r"lang_to_id <\|en\|> is None"),
        ({"lang_to_id": ["en"]}, "lang_to_id is .*, no table"),
        ({"task_to_id": "transcribe"}, "task_to_id is .*, no table"),
        ({"max_length": "long"}, "max_length is 'long'"),
        ({"suppress_tokens": "-1"}, "suppress_tokens is '-1', no list"),
        ({"begin_suppress_tokens": [220, "end"]}, "begin_suppress_tokens is .*, no list"),
    ],
)
def test_settings_that_nobody_can_read_are_one_line_of_quantize(several, tmp_path, values, message):
    changed(several, **values)

    with pytest.raises(PqmError, match=message) as error:
        quantize(str(several), tmp_path / "packed")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "packed").exists()


@pytest.mark.parametrize("values", [{"feature_size": 128}, {"sampling_rate": 8000}], ids=lambda values: [*values][0])
def test_another_models_feature_extractor_is_one_line_of_quantize(published, tmp_path, values):
    changed(published, "preprocessor_config.json", **values)

    with pytest.raises(PqmError, match=f"the feature extractor has {[*values][0]} .* the model"):
        quantize(str(published), tmp_path / "packed")


@pytest.mark.parametrize("pad", [[256], []])
def test_a_padding_token_in_a_list_is_the_first_of_it(published, pad):
    changed(published, pad_token_id=pad)

    assert read_settings(published)["pad_token_id"] == 256
    assert words(published)


def test_marks_of_byte_order_in_a_folders_files_are_left_out(published, tmp_path):
    for path in published.glob("*.json"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())

    fetch_base(str(published), tmp_path / "base")

    assert words(tmp_path / "base") == stock_words(tmp_path / "base")


def test_the_feature_extractor_of_a_processor_file_is_taken(published, tiny_whisper, tmp_path):
    from transformers import WhisperFeatureExtractor, WhisperProcessor, WhisperTokenizer

    processor = WhisperProcessor(
        WhisperFeatureExtractor.from_pretrained(published), WhisperTokenizer.from_pretrained(published)
    )
    (published / "preprocessor_config.json").unlink()
    processor.save_pretrained(published)
    assert not (published / "preprocessor_config.json").exists()

    quantize(str(published), tmp_path / "packed")
    fetch_base(str(published), tmp_path / "base")

    assert words(tmp_path / "base") == words(tiny_whisper)
    assert words(tmp_path / "packed", packed=True)
    changed(published, "processor_config.json", without=["feature_extractor"])
    with pytest.raises(PqmError, match="holds no feature extractor"):
        fetch_base(str(published), tmp_path / "other")


@pytest.mark.parametrize("flag", [{"tie_word_embeddings": False}, {}], ids=["said", "not said"])
def test_an_output_matrix_of_its_own_is_kept_packed_and_named(published, tmp_path, flag):
    changed(published, "config.json", **flag)
    state = load_file(published / "model.safetensors")
    torch.manual_seed(1)
    state["proj_out.weight"] = torch.randn_like(state["model.decoder.embed_tokens.weight"])
    save_file(state, published / "model.safetensors", metadata={"format": "pt"})
    expected = stock_words(published)

    fetch_base(str(published), tmp_path / "base")
    meta = quantize(str(published), tmp_path / "packed")

    assert words(tmp_path / "base") == expected == stock_words(tmp_path / "base")
    recognizer = family_of(tmp_path / "base").load_float(tmp_path / "base", SearchOptions(), "cpu")
    assert recognizer.layer_kinds()["proj_out"] == "output"
    assert recognizer.layer_kinds()["model.decoder.embed_tokens"] == "embedding"
    assert "output" in json.dumps(meta)
    skeleton = family_of(tmp_path / "packed").load_skeleton(tmp_path / "packed", SearchOptions(), "cpu")
    load_packed(tmp_path / "packed/model.safetensors", skeleton.network)
    assert words(tmp_path / "packed", packed=True)
    packed = skeleton.network.get_submodule("proj_out").weight
    assert float((packed - state["proj_out.weight"]).norm() / state["proj_out.weight"].norm()) < 0.13


def test_an_output_matrix_that_is_said_and_not_there_is_one_line(published, tmp_path):
    changed(published, "config.json", tie_word_embeddings=False)

    with pytest.raises(PqmError, match=r"tie_word_embeddings is false\), but no proj_out.weight"):
        fetch_base(str(published), tmp_path / "base")


def test_a_tied_model_has_one_matrix_of_one_kind(tiny_whisper):
    recognizer = family_of(tiny_whisper).load_float(tiny_whisper, SearchOptions(), "cpu")

    assert recognizer.layer_kinds()["proj_out"] == "embedding"
