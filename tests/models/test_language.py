"""The language of speech: how it is named, told to Whisper, and found by it."""

import shutil

import numpy as np
import pytest
import torch
from transformers import WhisperForConditionalGeneration

from pqm_plugin.errors import PqmError
from pqm_plugin.models.families import family_of
from pqm_plugin.models.language import language_code
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.models.whisper.tables import read_prompt
from tests.tiny import prefer_language


def noise(seed=0, seconds=1.0):
    return np.random.default_rng(seed).normal(size=int(16000 * seconds)).astype("float32") * 0.1


def opened(folder, language):
    recognizer = family_of(folder).load_float(folder, SearchOptions(beam_size=1, language=language), "cpu")
    recognizer.network.eval()
    return recognizer


@pytest.mark.parametrize(
    ("said", "code"),
    [
        *(("de", "de"), ("DE", "de"), ("<|de|>", "de"), (" German ", "de"), ("valencian", "ca")),
        *(("pt_BR", "pt"), ("en-US", "en"), ("eng", "en"), ("haitian creole", "ht"), ("yue", "yue"), ("AUTO", "auto")),
    ],
)
def test_names_codes_and_locales_are_one_language(said, code):
    assert language_code(said) == code


@pytest.mark.parametrize("said", ["", "klingon", "d", "de;en", "<|de|"])
def test_what_is_no_language_is_refused_with_the_way_to_write_one(said):
    with pytest.raises(PqmError, match="is not known: use a code such as de, a name such as german, or auto"):
        language_code(said)


@pytest.mark.parametrize("said", ["German", "<|DE|>", "de-AT"])
def test_the_prompt_takes_a_language_however_it_is_written(tiny_multilingual, said):
    assert read_prompt(tiny_multilingual, said).tokens == read_prompt(tiny_multilingual, "de").tokens
    assert read_prompt(tiny_multilingual, "hi").tokens != read_prompt(tiny_multilingual, "de").tokens


@pytest.mark.parametrize("language", ["en", "English", "auto"])
def test_a_whisper_of_english_alone_takes_english_and_auto(tiny_whisper, language):
    recognizer = opened(tiny_whisper, language)

    assert family_of(tiny_whisper).spoken_language(tiny_whisper, language) == "en"
    assert recognizer.language_of([noise()]) == "en"
    assert recognizer.recognize([noise()]) == opened(tiny_whisper, "en").recognize([noise()])


@pytest.mark.parametrize("act", [opened, lambda folder, language: opened(folder, "en").speak(language)])
def test_a_whisper_of_english_alone_refuses_other_languages(tiny_whisper, act):
    with pytest.raises(PqmError, match="language 'de': this Whisper model is English-only: use a multilingual one"):
        act(tiny_whisper, "de")


def test_words_are_those_of_the_language_that_is_spoken_from_now_on(tiny_multilingual):
    recognizer = opened(tiny_multilingual, "en")
    text = recognizer.token_ids("no")
    words, losses = {}, {}

    for language in ("hi", "de", "en"):
        recognizer.speak(language)
        words[language] = recognizer.recognize([noise()])
        losses[language] = recognizer.loss([recognizer.features(noise())], [text]).total.item()
        fresh = opened(tiny_multilingual, language)
        assert words[language] == fresh.recognize([noise()])
        assert losses[language] == fresh.loss([fresh.features(noise())], [text]).total.item()

    assert len({found[0].score for found in words.values()}) == len(set(losses.values())) == 3


@pytest.mark.parametrize("language", ["en", "de", "hi"])
def test_the_language_that_is_found_is_the_likeliest_as_transformers_finds_it(tiny_multilingual, tmp_path, language):
    folder = prefer_language(shutil.copytree(tiny_multilingual, tmp_path / "other"), language)
    recognizer = opened(folder, "auto")
    clips = [noise(seed, 0.5 + seed) for seed in range(2)]

    found = recognizer.language_of(clips)

    theirs = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    mel = recognizer._extractor(clips, sampling_rate=16000, return_tensors="pt").input_features
    ids = theirs.generation_config.lang_to_id
    assert theirs.detect_language(mel, num_segment_frames=200).tolist() == [ids[f"<|{language}|>"]] * 2
    assert found == language


def test_several_pieces_tell_the_language_together(tiny_multilingual):
    prompt = read_prompt(tiny_multilingual, "auto")
    logits = torch.zeros(2, 300)
    logits[0, prompt.languages["en"]] = 2.0
    logits[1, prompt.languages["hi"]] = 3.0
    logits[:, 5] = 9.0

    assert prompt.likeliest_language(logits) == "hi"
    assert prompt.likeliest_language(logits[:1]) == "en"


def test_a_language_written_otherwise_is_no_other_request(tiny_multilingual):
    family, german, other = family_of(tiny_multilingual), SearchOptions(language="de"), SearchOptions(language="German")

    assert family.search_options(other) == family.search_options(german)
    assert family.training_options(other) == family.training_options(german) == {"language": "de", "context": "window"}


def test_a_model_of_espnet_keeps_a_language_as_information_and_cannot_find_one(tiny_conformer):
    assert family_of(tiny_conformer).spoken_language(tiny_conformer, "ga") == "ga"
    with pytest.raises(PqmError, match="a model of ESPnet cannot tell the language: name it, or leave it out"):
        family_of(tiny_conformer).spoken_language(tiny_conformer, "auto")
