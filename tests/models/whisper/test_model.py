"""Whisper behind the interface: transformers' own numbers and words, prompts, windows, and what is quantised."""

import json
import shutil

import numpy as np
import pytest
import torch
from torch import nn
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from pqm_plugin.adapters.bank import AdapterBank
from pqm_plugin.adapters.files import AdapterInfo, save_adapter
from pqm_plugin.adapters.lora import attach
from pqm_plugin.errors import PqmError
from pqm_plugin.models.families import family_of
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.models.whisper.tables import read_prompt

SEARCH = SearchOptions(beam_size=2)
LANGUAGES = {"<|en|>": 10, "<|de|>": 11}
TASKS = {"transcribe": 12, "translate": 13}


def noise(seconds, seed=0):
    return np.random.default_rng(seed).normal(size=int(16000 * seconds)).astype("float32") * 0.1


def opened(folder, search=SEARCH):
    recognizer = family_of(folder).load_float(folder, search, "cpu")
    recognizer.folder = folder
    recognizer.network.eval()
    return recognizer


@pytest.fixture
def recognizer(tiny_whisper):
    return opened(tiny_whisper)


@pytest.fixture
def multilingual(tiny_whisper, tmp_path):
    """The tiny model with two languages."""
    folder = shutil.copytree(tiny_whisper, tmp_path / "multilingual")
    config = json.loads((folder / "generation_config.json").read_text())
    config |= {"is_multilingual": True, "lang_to_id": LANGUAGES, "task_to_id": TASKS}
    (folder / "generation_config.json").write_text(json.dumps(config))
    return folder


def test_features_are_those_of_the_whole_window_cut_after_the_clip(recognizer, tiny_whisper):
    extractor = WhisperProcessor.from_pretrained(tiny_whisper).feature_extractor
    audio = noise(0.7)

    ours = recognizer.features(audio)

    window = torch.from_numpy(extractor(audio, sampling_rate=16000, return_tensors="np").input_features[0].T)
    assert torch.equal(ours, window[: len(ours)])
    assert torch.equal(window[len(ours) :], ours[-1:].expand(len(window) - len(ours), -1))
    assert len(ours) < 75


def test_the_loss_is_transformers_cross_entropy_of_text_and_end_alone(recognizer, tiny_whisper):
    network = WhisperForConditionalGeneration.from_pretrained(tiny_whisper).eval()
    text = recognizer.token_ids("go on")
    ids = torch.cat([torch.tensor([257, 258]), text, torch.tensor([256])])[None]
    mel = WhisperProcessor.from_pretrained(tiny_whisper)(noise(1), sampling_rate=16000, return_tensors="pt")

    ours = recognizer.loss([recognizer.features(noise(1))], [text])

    with torch.no_grad():
        logits = network(mel.input_features, decoder_input_ids=ids[:, :-1]).logits[0]
    expected = nn.functional.cross_entropy(logits[1:], ids[0, 2:], reduction="sum")
    assert ours.total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert ours.n_tokens == len(text) + 1


def test_the_loss_of_a_batch_is_the_sum_of_its_utterances(recognizer):
    features = [recognizer.features(noise(s)) for s in (0.5, 1.5)]
    tokens = [recognizer.token_ids(text) for text in ("a cat", "no")]

    batch = recognizer.loss(features, tokens)
    single = [recognizer.loss([f], [t]) for f, t in zip(features, tokens, strict=True)]

    assert batch.total.item() == pytest.approx(sum(one.total.item() for one in single), rel=1e-5)
    assert (batch.n_tokens, batch.n_correct) == tuple(
        sum(getattr(one, name) for one in single) for name in ("n_tokens", "n_correct")
    )


def test_any_text_is_spelled_with_a_blank_before_it(recognizer, tiny_whisper):
    tokenizer = WhisperProcessor.from_pretrained(tiny_whisper).tokenizer

    assert tokenizer.decode(recognizer.token_ids("Größe, 100 %")) == " Größe, 100 %"
    assert recognizer.facts.symbols is None


@pytest.mark.parametrize("beam_size", [1, 3])
def test_words_and_scores_of_a_batch_are_those_of_each_alone(tiny_whisper, beam_size):
    recognizer = opened(tiny_whisper, SearchOptions(beam_size=beam_size))
    clips = [noise(s, seed) for seed, s in enumerate((0.4, 1.0, 2.0))]

    together = recognizer.recognize(clips)
    alone = [recognizer.recognize([clip])[0] for clip in clips]

    assert [found.text for found in together] == [found.text for found in alone]
    assert [found.score for found in together] == pytest.approx([found.score for found in alone], rel=1e-4)
    if beam_size == 1:
        assert recognizer.greedy([recognizer.features(clip) for clip in clips]) == [found.text for found in together]


def test_audio_longer_than_the_window_is_cut_and_cannot_be_trained_on(recognizer):
    audio = noise(5)

    pieces = recognizer.pieces(audio)

    assert np.array_equal(np.concatenate(pieces), audio)
    assert all(len(piece) <= 2 * 16000 for piece in pieces)
    reason = recognizer.reason_untrainable(recognizer.features(audio), recognizer.token_ids("no"))
    assert reason == "it is longer than the 2 seconds of the model's window"
    assert "tokens, the model writes" in recognizer.reason_untrainable(
        torch.zeros(9, 20), recognizer.token_ids("no" * 20)
    )
    assert recognizer.reason_untrainable(recognizer.features(pieces[0]), recognizer.token_ids("no")) == ""


def test_the_prompt_is_that_of_transformers_own_generation(multilingual):
    recognizer = opened(multilingual, SearchOptions(language="de"))
    given = []

    def record(module, arguments, options):
        given.append(options["input_ids"][0].tolist())

    recognizer.network.model.decoder.register_forward_pre_hook(record, with_kwargs=True)
    recognizer.recognize([noise(1)])

    assert given[0] == [257, 11, 12, 258]
    assert read_prompt(multilingual, "de").tokens == (257, 11, 12, 258)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_what_was_written_before_is_kept_so_that_a_step_computes_one_token(tiny_whisper, beam_size):
    recognizer = opened(tiny_whisper, SearchOptions(beam_size=beam_size))
    steps = []

    def record(module, arguments, options):
        if options["use_cache"]:
            steps.append(options["input_ids"].shape)

    recognizer.network.model.decoder.register_forward_pre_hook(record, with_kwargs=True)
    recognizer.recognize([noise(1), noise(1, 1)])

    assert steps[0][1] == 2
    assert len(steps) > 2 and all(shape == (2 * beam_size, 1) for shape in steps[1:])


def test_the_prompt_is_not_learned(multilingual):
    recognizer = opened(multilingual)
    text = recognizer.token_ids("no")

    assert recognizer.loss([recognizer.features(noise(1))], [text]).n_tokens == len(text) + 1


def test_a_language_that_the_model_does_not_know_is_named_with_those_it_knows(multilingual):
    with pytest.raises(PqmError, match=r"language 'fr': this model knows de en, and auto"):
        opened(multilingual, SearchOptions(language="fr"))


def test_an_option_that_whisper_has_not_is_refused(tiny_whisper):
    with pytest.raises(PqmError, match=r"decode.length_bonus: Whisper has no such option"):
        family_of(tiny_whisper).search_options(SearchOptions(length_bonus=0.5))


def test_every_matrix_has_a_kind_but_positions(recognizer):
    kinds = recognizer.layer_kinds()

    parameters = dict(recognizer.network.named_parameters(remove_duplicate=False))
    matrices = {name.removesuffix(".weight") for name, value in parameters.items() if value.dim() > 1}
    assert matrices - kinds.keys() == {"model.encoder.embed_positions", "model.decoder.embed_positions"}
    assert kinds["model.decoder.embed_tokens"] == kinds["proj_out"] == "embedding"
    assert kinds["model.encoder.conv2"] == "encoder_conv"


@pytest.mark.parametrize(
    ("preset", "count"), [("qv", 6), ("attention", 12), ("all_linear", 16), ("all_linear_and_conv", 18)]
)
def test_a_lora_preset_names_whole_layers(recognizer, preset, count):
    targets = recognizer.adapter_targets(preset)

    assert len(targets) == count
    assert all(isinstance(recognizer.network.get_submodule(name), nn.Linear | nn.Conv1d) for name in targets)


@pytest.mark.parametrize("beam_size", [1, 2])
@pytest.mark.parametrize("preset", ["attention", "all_linear_and_conv"])
def test_each_row_of_a_batch_is_searched_with_its_own_adapter(tiny_whisper, tmp_path, preset, beam_size):
    recognizer = opened(tiny_whisper, SearchOptions(beam_size=beam_size))
    folders = []
    for place in (0, 1):
        fresh = opened(recognizer.folder)
        model = attach(fresh.network, fresh.adapter_targets(preset), rank=1, alpha=4, dropout=0.0)
        torch.manual_seed(place)
        with torch.no_grad():
            for name, value in model.named_parameters():
                if "lora_" in name:
                    value.normal_()
        folders.append(tmp_path / str(place))
        save_adapter(folders[-1], model, AdapterInfo("abc", "ada", 1, 100, 3))
    clips = [noise(1.0), noise(1.0)]

    bank = AdapterBank(recognizer.network, "abc")
    with bank.rows(folders):
        together = recognizer.recognize(clips)
    alone = []
    for folder, clip in zip(folders, clips, strict=True):
        with bank.rows([folder]):
            alone += recognizer.recognize([clip])

    assert [found.text for found in together] == [found.text for found in alone]
    assert together[0].text != together[1].text
