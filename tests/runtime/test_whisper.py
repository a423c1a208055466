"""Whisper through ONNX Runtime writes what transformers writes."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import WhisperFeatureExtractor, WhisperTokenizer

from pqm_plugin.models.options import SearchOptions
from pqm_plugin.personal.folder import ModelFolder
from pqm_plugin.personal.making import quantize
from pqm_plugin.personal.model import PersonalModel
from pqm_plugin.personal.opening import open_packed
from pqm_plugin.personal.options import EnrollOptions
from pqm_plugin.personal.runtime import RuntimeModel
from pqm_plugin.runtime.features import WhisperMel
from pqm_plugin.runtime.tokens import Words
from pqm_plugin.runtime.weights import read_lora
from pqm_plugin.runtime.whisper import RuntimeWhisper
from pqm_plugin.runtime.whisper_search import repeats
from pqm_plugin.words import parse_words

RATE = 16000


def noise(seconds, seed=0, level=0.1):
    return (level * np.random.default_rng(seed).normal(size=int(RATE * seconds))).astype("float32")


CLIPS = [noise(1.0), noise(0.4, 1), noise(1.9, 2), noise(0.7, 3)]


@pytest.fixture(scope="module")
def whisper(tiny_whisper, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runtime") / "whisper"
    quantize(str(tiny_whisper), out)
    return out


@pytest.fixture(scope="module")
def spacious(spacious_whisper, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runtime") / "spacious"
    quantize(str(spacious_whisper), out)
    return out


@pytest.fixture(scope="module")
def multilingual(tiny_multilingual, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runtime") / "multilingual"
    quantize(str(tiny_multilingual), out)
    return out


def both(folder, search):
    return open_packed(ModelFolder(folder), search).recognizer, RuntimeWhisper(folder, search, whole=True)


def same(found, expected):
    assert [(one.text, one.n_tokens, one.is_repaired) for one in found] == [
        (one.text, one.n_tokens, one.is_repaired) for one in expected
    ]
    assert [one.score for one in found] == pytest.approx([one.score for one in expected], abs=2e-3)


@pytest.mark.parametrize("beam_size", [1, 2, 5])
@pytest.mark.parametrize("guard", ["never", "always"])
@pytest.mark.parametrize("context", ["window", "clip"])
def test_words_and_scores_are_those_of_transformers(spacious, beam_size, guard, context):
    torch_one, runtime = both(spacious, SearchOptions(beam_size=beam_size, guard=guard, context=context))

    expected = torch_one.recognize(CLIPS)

    same(runtime.recognize(CLIPS), expected)
    same([runtime.recognize([clip])[0] for clip in CLIPS], [torch_one.recognize([clip])[0] for clip in CLIPS])


def test_suppressed_tokens_and_a_shorter_length_are_heeded(whisper, tmp_path):
    folder = Path(shutil.copytree(whisper, tmp_path / "model"))
    free = RuntimeWhisper(folder, SearchOptions(beam_size=2, guard="never"), whole=True).recognize(CLIPS)
    written = free[0].text
    path = folder / "generation_config.json"
    banned = sorted({ord(letter) - ord("!") for letter in written if "!" < letter < "~"})
    path.write_text(
        path.read_text().replace("{", f'{{"suppress_tokens": {banned[:2]}, "begin_suppress_tokens": {banned[2:4]}, ', 1)
    )
    torch_one, runtime = both(folder, SearchOptions(beam_size=2, guard="never"))

    found = runtime.recognize(CLIPS)

    same(found, torch_one.recognize(CLIPS))
    assert found[0].text != written


def test_languages_are_told_and_found_as_with_torch(multilingual):
    torch_one, runtime = both(multilingual, SearchOptions(beam_size=2, language="auto"))

    assert runtime.language_of(CLIPS[:2]) == torch_one.language_of(CLIPS[:2]) == "de"
    for language in ("en", "hi"):
        torch_one.speak(language)
        runtime.speak(language)
        same(runtime.recognize(CLIPS), torch_one.recognize(CLIPS))


@pytest.mark.parametrize("targets", ["attention", "all_linear"])
def test_each_row_has_its_own_adapter(spacious, tmp_path, targets):
    folder = Path(shutil.copytree(spacious, tmp_path / "model"))
    search = SearchOptions(beam_size=2, guard="never", context="clip")
    teacher = PersonalModel(folder, search)
    options = EnrollOptions(epochs=1, few_epochs=1, targets=targets, learning_rate=0.05)
    for seed, name in enumerate(("anna", "bert")):
        teacher.enroll(
            name, [noise(1, seed, 0.3)], ["GO ON" if seed else "STOP"], options=replace(options, rank=2 + seed)
        )
    _, runtime = both(folder, search)
    expected = PersonalModel(folder, search)
    adapters = {name: read_lora(folder / "speakers" / name, ModelFolder(folder).intact()) for name in ("anna", "bert")}

    apart = {name: runtime.recognize(CLIPS[:1], [adapters[name]])[0] for name in adapters}
    together = runtime.recognize([CLIPS[0]] * 2, list(adapters.values()))
    plain = runtime.recognize(CLIPS[:1])

    same(together, list(apart.values()))
    for name, found in apart.items():
        score = expected.transcribe(CLIPS[0], name).segments[0].score
        assert found.score == pytest.approx(score, abs=2e-3)
    assert len({one.score for one in [*together, *plain]}) == 3
    same(plain, RuntimeWhisper(folder, search, whole=True).recognize(CLIPS[:1]))


def test_products_in_eight_bits_are_near_and_no_row_depends_on_others(whisper):
    search = SearchOptions(beam_size=1, guard="never")
    runtime = RuntimeWhisper(whisper, search)
    whole = RuntimeWhisper(whisper, search, whole=True)

    together = runtime.recognize(CLIPS)

    assert together == [runtime.recognize([clip])[0] for clip in CLIPS]
    for found, expected in zip(together, whole.recognize(CLIPS), strict=True):
        assert found.score / (found.n_tokens + 1) == pytest.approx(expected.score / (expected.n_tokens + 1), abs=0.2)


@pytest.mark.parametrize("n_mels", [80, 128])
def test_features_are_those_of_transformers(n_mels):
    extractor = WhisperFeatureExtractor(feature_size=n_mels)
    mel = WhisperMel(n_mels)
    for clip in (noise(3), np.zeros(8000, np.float32), noise(29.99), noise(0.01)):
        expected = extractor(clip, sampling_rate=RATE, return_tensors="np").input_features[0].T

        found = mel(clip)

        assert found.dtype == np.float32
        assert np.abs(found - expected[: len(found)]).max() < 1e-4
        assert np.abs(expected[len(found) :] - found[-1]).max(initial=0) < 1e-4


def test_tokens_are_written_as_transformers_writes_them(tiny_whisper, multilingual):
    for folder in (tiny_whisper, multilingual):
        tokenizer, words = WhisperTokenizer.from_pretrained(folder), Words(folder)
        for text in ("Grüße, 你好 — naïve “quotes” don't .", "  two  blanks ", "\u0939\u093f", ""):
            ids = tokenizer(f" {text.strip()}", add_special_tokens=False).input_ids

            assert words.ids(text) == ids
            for row in (ids, [*ids, 256, 257], ids[1:-1], ids[::-1]):
                expected = tokenizer.decode(row, skip_special_tokens=True)
                assert words.text(row) == " ".join(expected.split())


def test_what_would_stand_twice_is_known():
    assert repeats(np.array([1, 2, 3, 1, 2]), 3) == {3}
    assert repeats(np.array([1, 2, 3, 2, 3]), 2) == {2}
    assert repeats(np.array([1, 1]), 3) == repeats(np.array([1, 2, 3]), 0) == set()


def test_a_model_hears_the_same_with_either(whisper):
    search = SearchOptions(beam_size=2)
    recording = np.concatenate([noise(3), np.zeros(RATE, np.float32), noise(2, 1)])

    found = RuntimeModel(whisper, search, whole=True).transcribe(recording)
    expected = PersonalModel(whisper, search).transcribe(recording)

    assert [(one.start_s, one.end_s, one.text) for one in found.segments] == [
        (one.start_s, one.end_s, one.text) for one in expected.segments
    ]


def letters_of(folder, search, words):
    """Words of every clip, with a list for each or none; torch computes the score of what was found by itself."""
    torch_one, runtime = both(folder, search)
    expected, found = torch_one.recognize(CLIPS, words), runtime.recognize(CLIPS, words=words)
    same(found, expected)
    return found


@pytest.mark.parametrize("beam_size", [1, 3])
@pytest.mark.parametrize("guard", ["never", "always"])
def test_words_of_ones_own_are_expected_alike_by_torch_and_onnx_with_the_models_own_scores(whisper, beam_size, guard):
    search = SearchOptions(beam_size=beam_size, guard=guard, words_weight=10)
    lists = [parse_words(["zqx"], "one"), None, parse_words(["jvk\t0.8", "zq"], "two"), None]

    alone = [letters_of(whisper, search, [])[place] for place in range(4)]
    found = letters_of(whisper, search, lists)

    assert found[1] == alone[1]
    assert found[3] == alone[3]
    assert found[0].text != alone[0].text
    assert "zqx" in found[0].text.lower()
