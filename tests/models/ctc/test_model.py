"""CTC models of transformers: what they compute beside transformers itself, and what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pqm_plugin.adapters.lora import attach
from pqm_plugin.errors import PqmError
from pqm_plugin.models.families import family_of, fetch_base, is_float_model
from pqm_plugin.models.options import SearchOptions
from tests.tiny import CTC_TYPES, make_tiny_ctc

LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
"""What large published models have."""


def opened(folder):
    """The float model, in evaluation mode."""
    recognizer = family_of(folder).load_float(folder, SearchOptions(), "cpu")
    recognizer.network.eval()
    return recognizer


def clip(seed, n_samples=16000):
    """Noise, float32 (n_samples,)."""
    return np.random.default_rng(seed).normal(0, 0.1, n_samples).astype(np.float32)


@pytest.fixture(scope="module", params=[*CTC_TYPES, "large"])
def model(request, tmp_path_factory):
    """A tiny model of each type, brought as a base is."""
    kind, settings = ("wav2vec2", LARGE) if request.param == "large" else (request.param, {})
    folder = tmp_path_factory.mktemp("ctc") / request.param
    fetch_base(str(make_tiny_ctc(folder / "source", kind, **settings)), folder / "base")
    return folder / "base"


def test_loss_and_words_are_those_of_transformers(model):
    from transformers import AutoModelForCTC, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor

    theirs = AutoModelForCTC.from_pretrained(model, ctc_loss_reduction="sum").eval()
    values = Wav2Vec2FeatureExtractor.from_pretrained(model)(clip(0), sampling_rate=16000, return_tensors="pt")
    ours, text = opened(model), "GO ON"

    with torch.no_grad():
        expected = theirs(values.input_values, labels=ours.token_ids(text)[None])
        loss = ours.loss([ours.features(clip(0))], [ours.token_ids(text)])

    assert loss.total.item() == pytest.approx(expected.loss.item(), rel=1e-4)
    words = Wav2Vec2CTCTokenizer.from_pretrained(model).decode(expected.logits[0].argmax(-1))
    assert ours.recognize([clip(0)])[0].text == " ".join(words.split())


def test_a_clip_is_computed_alone_as_in_a_batch(model):
    ours, clips = opened(model), [clip(0), clip(1, 9000), clip(2, 200)]
    tokens = [ours.token_ids("A CAT"), ours.token_ids("NO")]
    features = [ours.features(audio) for audio in clips]

    together, alone = ours.recognize(clips), [ours.recognize([audio])[0] for audio in clips]

    assert [found.text for found in together] == [found.text for found in alone]
    assert [found.score for found in together] == pytest.approx([found.score for found in alone], rel=1e-4)
    assert ours.greedy(features) == [found.text for found in alone] and alone[2].text == ""
    apart = [ours.loss([row], [text]).total.item() for row, text in zip(features, tokens, strict=False)]
    groups = [found.total.item() for found in ours.losses(features[:2], tokens, [1, 1])]
    assert groups == pytest.approx(apart, rel=1e-4)


@pytest.mark.parametrize("preset", ["qv", "attention", "all_linear"])
def test_every_layer_of_a_preset_has_an_adapter_that_learns(model, preset):
    ours = opened(model)
    attach(ours.network, ours.adapter_targets(preset), rank=1, alpha=4, dropout=0.0)

    ours.loss([ours.features(clip(0))], [ours.token_ids("WHO IS IT")]).total.backward()

    learning = [each for each in ours.network.named_parameters() if each[1].requires_grad and "lora_B" in each[0]]
    assert len(learning) == {"qv": 4, "attention": 8, "all_linear": 12}[preset]
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for _, parameter in learning)


def test_an_utterance_with_fewer_frames_than_its_path_has_is_told(tiny_ctc):
    ours = opened(tiny_ctc)

    assert ours.reason_untrainable(torch.zeros(3, 16), ours.token_ids("ABA")) == ""
    assert ours.reason_untrainable(torch.zeros(3, 16), ours.token_ids("AAB")) == "it has 3 frames, its text needs 4"


def test_tokens_that_the_best_path_has_count_as_right(tiny_ctc):
    ours = opened(tiny_ctc)
    features = ours.features(clip(3))
    path = ours._paths(*ours._logits([features]))[0]

    found = ours.loss([features], [torch.tensor([*path, 5])])

    assert (found.n_correct, found.n_tokens) == (len(path), len(path) + 1)


def test_a_lower_case_vocabulary_is_written_as_its_tokeniser_does(tiny_ctc, tmp_path):
    folder = shutil.copytree(tiny_ctc, tmp_path / "lower")
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"do_lower_case": True}))

    ours = opened(folder)

    assert "a" in ours.facts.symbols and "A" not in ours.facts.symbols
    assert ours.token_ids("go on").tolist() == opened(tiny_ctc).token_ids("GO ON").tolist()
    assert ours.recognize([clip(0)])[0].text == opened(tiny_ctc).recognize([clip(0)])[0].text.lower()


def test_older_names_and_a_mask_that_is_lacking_are_read(tiny_ctc, tmp_path):
    folder = shutil.copytree(tiny_ctc, tmp_path / "older")
    state = load_file(folder / "model.safetensors")
    renamed = {
        name.replace(".parametrizations.weight.original0", ".weight_g").replace(
            ".parametrizations.weight.original1", ".weight_v"
        ): tensor
        for name, tensor in state.items()
        if "masked_spec_embed" not in name
    }
    save_file(renamed, folder / "model.safetensors", {"format": "pt"})
    fetch_base(str(folder), tmp_path / "base")

    words = [opened(place).recognize([clip(0)])[0].text for place in (tiny_ctc, folder, tmp_path / "base")]

    assert words[0] == words[1] == words[2] != ""
    assert not load_file(tmp_path / "base" / "model.safetensors")["wav2vec2.masked_spec_embed"].any()


def test_weights_of_the_older_format_are_read(tiny_ctc, tmp_path):
    folder = shutil.copytree(tiny_ctc, tmp_path / "older")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()

    fetch_base(str(folder), tmp_path / "base")

    assert is_float_model(folder)
    assert opened(tmp_path / "base").recognize([clip(0)]) == opened(tiny_ctc).recognize([clip(0)])


def changed(name, **values):
    """Change values of a file of JSON."""

    def change(folder):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def without_output(folder):
    """Take the CTC layer's weights away."""
    state = load_file(folder / "model.safetensors")
    del state["lm_head.weight"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def removed(name):
    """Remove a file."""
    return lambda folder: (folder / name).unlink()


REFUSED = {
    "languages": (
        changed("config.json", adapter_attn_dim=16),
        r"adapter layers for each language \(MMS\).*give a model",
    ),
    "vocabularies": (changed("vocab.json", eng={"a": 1}), r"a vocabulary for each language \(MMS\)"),
    "convolutions": (changed("config.json", add_adapter=True), "convolutions behind its encoder"),
    "phonemes": (changed("tokenizer_config.json", tokenizer_class="Wav2Vec2PhonemeCTCTokenizer"), "only characters"),
    "blank": (changed("config.json", pad_token_id=3), "pad_token_id is 3 in config.json and 0 in the vocabulary"),
    "weights": (without_output, "1 weights are missing or of another shape, such as lm_head.weight"),
    "shape": (changed("config.json", vocab_size=40), "weights are missing or of another shape"),
    "damage": (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99), "cannot be read"),
    "vocabulary": (removed("vocab.json"), "vocab.json is missing"),
    "extractor": (removed("preprocessor_config.json"), "lacks preprocessor_config.json"),
    "untrained": (changed("config.json", architectures=["Wav2Vec2ForPreTraining"]), "a wav2vec2 model of Hugging Face"),
    "other": (changed("config.json", model_type="wav2vec2-bert"), "a wav2vec2-bert model of Hugging Face"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_supported_or_not_whole_is_one_line_of_quantize(tiny_ctc, tmp_path, case):
    from pqm_plugin.personal.making import quantize

    change, message = REFUSED[case]
    folder = shutil.copytree(tiny_ctc, tmp_path / "changed")
    change(folder)

    with pytest.raises(PqmError, match=message) as error:
        quantize(str(folder), tmp_path / "out")

    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_options_and_training_that_a_ctc_model_lacks_are_refused_by_name(tiny_ctc, tmp_path):
    family = family_of(tiny_ctc)

    with pytest.raises(PqmError, match="decode.length_bonus: a CTC model has no such option"):
        family.search_options(SearchOptions(length_bonus=1.0))
    with pytest.raises(PqmError, match="--base train: transformers CTC models are not trained here; give a model"):
        family.training_sample_rate(tmp_path / "config.yaml")
    with pytest.raises(PqmError, match="language auto: a model of transformers cannot tell the language"):
        family.spoken_language(tiny_ctc, "auto")
    assert family.spoken_language(tiny_ctc, "German") == "de"
