"""The language of a personal model: kept when it is made, told, or found in the speech."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

import pqm_plugin
from pqm_plugin.adapters.files import read_info
from pqm_plugin.commands.__main__ import main
from pqm_plugin.errors import PqmError
from pqm_plugin.personal.making import quantize
from pqm_plugin.personal.options import EnrollOptions
from tests.personal.conftest import TEXTS, noise

OPTIONS = EnrollOptions(epochs=4, rank=4, learning_rate=0.001, min_confidence=0.0)
SILENCE = np.zeros(16000, dtype=np.int16)


@pytest.fixture
def german(packed, tiny_multilingual, tmp_path) -> Path:
    """A copy of the packed tiny multilingual Whisper, which finds German in whatever it hears."""
    return Path(shutil.copytree(packed(tiny_multilingual), tmp_path / "multilingual"))


@pytest.fixture
def recordings(tmp_path) -> list[str]:
    """Two recordings of a second."""
    paths = [tmp_path / f"{place}.wav" for place in range(2)]
    for place, path in enumerate(paths):
        soundfile.write(path, noise(place), 16000)
    return [str(path) for path in paths]


def words(folder, language=None):
    """Words, and their score: a tiny model may write the same in two languages."""
    return said(pqm_plugin.load(folder, language=language).transcribe(noise(0)))


def said(transcript):
    return transcript.text, transcript.segments[0].score


def test_a_language_is_told_to_the_model_or_for_one_recording(german):
    model = pqm_plugin.load(german)

    told = {language: words(german, language) for language in ("en", "German", "hi")}

    assert len(set(told.values())) == 3
    assert said(model.transcribe(noise(0), language="de")) == told["German"]
    assert said(model.transcribe(noise(0))) == told["en"]
    assert said(model.transcribe(noise(0), language="auto")) == told["German"]


def test_the_language_that_is_found_is_told_with_the_words(german):
    model = pqm_plugin.load(german, language="auto")

    found = model.transcribe(np.concatenate([SILENCE, SILENCE, SILENCE, noise(0)]))

    assert found.language == found.as_dict()["language"] == "de"
    assert found.segments[-1].text
    assert model.transcribe(SILENCE).language == ""
    assert "language" not in pqm_plugin.load(german, language="de").transcribe(noise(0)).as_dict()


@pytest.mark.parametrize("language", ["fr", "klingon"])
def test_a_language_that_the_model_does_not_know_is_refused_before_it_is_loaded(german, language):
    (german / "model.safetensors").write_bytes(b"never read")

    with pytest.raises(PqmError, match=f"^language '{language}'"):
        pqm_plugin.load(german, language=language)


@pytest.mark.slow
def test_a_voice_is_learned_in_the_language_that_the_model_finds(german, tmp_path):
    clips, texts = [noise(seed) for seed in range(4)], TEXTS[:4]
    learned = {}
    for language in ("auto", "de", "en"):
        folder = shutil.copytree(german, tmp_path / language)
        done = pqm_plugin.load(folder, language=language).enroll("ada", clips, texts, options=OPTIONS)
        learned[language] = (done.folder / "adapter_model.safetensors").read_bytes()
        assert read_info(done.folder).request["search"]["language"] == ("en" if language == "en" else "de")
        assert not pqm_plugin.load(folder, language=language).enroll("ada", clips, texts, options=OPTIONS).is_new

    assert learned["auto"] == learned["de"] != learned["en"]


def test_own_words_are_heard_in_one_language(german):
    model = pqm_plugin.load(german, language="auto")

    done = model.enroll("ada", [noise(seed) for seed in range(3)], options=OPTIONS)

    assert read_info(done.folder).request["search"]["language"] == "de"


def test_the_language_of_quantize_is_kept_for_all_who_use_the_folder(tiny_multilingual, tmp_path, recordings, capsys):
    folder = tmp_path / "packed"

    assert main(["quantize", str(tiny_multilingual), str(folder), "--language", "Hindi"]) == 0

    assert json.loads((folder / "about.json").read_text())["decode"] == {"language": "hi"}
    assert words(folder) == words(folder, "hi") != words(folder, "en")
    capsys.readouterr()
    assert (
        main(["transcribe", str(folder), recordings[0], "--language", "auto", "--format", "json", "--runtime", "torch"])
        == 0
    )
    found, (text, score) = json.loads(capsys.readouterr().out), words(folder, "de")
    assert (found["language"], found["text"], found["segments"][0]["score"]) == ("de", text, round(score, 4))


def test_weights_are_rounded_by_words_of_the_language_that_is_found(tiny_multilingual, tmp_path, recordings):
    made = {}
    for language in ("auto", "de", "en"):
        quantize(str(tiny_multilingual), tmp_path / language, calibrate=recordings, language=language)
        made[language] = (tmp_path / language / "model.safetensors").read_bytes()

    assert made["auto"] == made["de"] != made["en"]


def test_a_voice_is_learned_in_the_language_of_the_command_line(german, recordings, tmp_path, capsys):
    for path, text in zip(recordings, TEXTS, strict=False):
        Path(path).with_suffix(".txt").write_text(text)
    fast = ["--epochs", "1", "--rank", "1", "--learning_rate", "0.01"]

    assert main(["enroll", str(german), *recordings, "--speaker", "ada", "--language", "german", *fast]) == 0

    assert read_info(german / "speakers/ada").request["search"]["language"] == "de"


@pytest.mark.slow
@pytest.mark.parametrize("language", ["de", "French"])
def test_every_command_refuses_what_the_model_cannot_speak(
    whisper, tiny_whisper, recordings, tmp_path, capsys, language
):
    calls = [
        ["quantize", str(tiny_whisper), str(tmp_path / "out")],
        ["transcribe", str(whisper), *recordings],
        ["enroll", str(whisper), *recordings, "--speaker", "ada"],
        ["serve", str(whisper), "--port", "0"],
    ]
    for call in calls:
        assert main([*call, "--language", language]) == 1
        refusal = f"pqm {call[0]}: language '{language}': this Whisper model is English-only"
        assert refusal in capsys.readouterr().err

    assert not (tmp_path / "out").exists()


def test_a_model_of_espnet_keeps_its_language_and_cannot_be_told_another(
    conformer, tiny_conformer, tmp_path, recordings
):
    quantize(str(tiny_conformer), tmp_path / "irish", language="ga")

    assert json.loads((tmp_path / "irish/about.json").read_text())["decode"] == {"language": "ga"}
    assert words(tmp_path / "irish") == words(conformer)
    with pytest.raises(PqmError, match="writes what it was trained on and cannot be told: leave --language out"):
        pqm_plugin.load(conformer, language="de")
    with pytest.raises(PqmError, match="cannot tell the language"):
        quantize(str(tiny_conformer), tmp_path / "none", language="auto")
