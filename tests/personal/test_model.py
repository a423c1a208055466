"""Hear, learn a voice, hear otherwise: the Python side of a personal model."""

import contextlib
import io
import wave

import numpy as np
import pytest
import torch

import pqm_plugin
from pqm_plugin.adapters.files import read_info
from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json, write_json
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.personal.options import EnrollOptions
from tests.personal.conftest import TEXTS, noise

pytestmark = pytest.mark.slow
OPTIONS = EnrollOptions(rank=1, epochs=2, learning_rate=0.01)
CLIPS = [noise(place) for place in range(6)]


def test_a_path_a_file_and_an_array_give_the_same_words(folder, tmp_path):
    model = pqm_plugin.load(folder)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(noise(7).tobytes())
    (tmp_path / "a.wav").write_bytes(buffer.getvalue())

    found = [model.transcribe(sound) for sound in (tmp_path / "a.wav", io.BytesIO(buffer.getvalue()), noise(7))]

    assert found[0].text == found[1].text == found[2].text != ""
    assert found[0].duration_s == 1.0
    assert [part.start_s for part in found[0].segments][0] == 0.0


def test_long_recordings_are_cut_and_the_segments_cover_them_whole(folder):
    model = pqm_plugin.load(folder)

    found = model.transcribe(noise(1, 80000), longest_s=1.5)

    assert len(found.segments) >= 4
    assert all(part.end_s - part.start_s <= 1.5 for part in found.segments)
    ends = [0.0, *(part.end_s for part in found.segments)]
    assert [part.start_s for part in found.segments] == ends[:-1]
    assert ends[-1] == 5.0


def test_the_first_words_come_after_one_search_and_are_those_of_pieces_searched_one_by_one(folder, monkeypatch):
    model, alone = pqm_plugin.load(folder), pqm_plugin.load(folder, search=SearchOptions(batch_size=1))
    samples, searched, search = noise(1, 16000 * 9), [], model.recognizer.recognize

    def counted(pieces, *rest):
        searched.append(len(pieces))
        return search(pieces, *rest)

    monkeypatch.setattr(model.recognizer, "recognize", counted)

    segments = model.segments(samples, longest_s=1.0)
    first = next(segments)
    before = list(searched)
    found = [first, *segments]

    assert before == [1]
    assert searched[:3] == [1, 2, 4] and sum(searched) == len(found)
    assert [each.text for each in found] == [each.text for each in alone.segments(samples, longest_s=1.0)]


def test_silence_and_a_click_have_no_words(folder):
    model = pqm_plugin.load(folder)

    found = [model.transcribe(sound) for sound in (np.zeros(16000, np.float32), noise(0, 10))]

    assert [each.text for each in found] == ["", ""] and len(found[0].segments) == 1


def test_a_voice_changes_what_is_heard_for_its_speaker_alone(folder):
    model = pqm_plugin.load(folder)
    before = model.transcribe(CLIPS[0])

    done = model.enroll("ada", CLIPS, TEXTS, options=OPTIONS)

    assert (done.n_clips, done.duration_s, done.is_new) == (6, 6.0, True)
    assert model.speakers == ["ada"]
    ada = model.transcribe(CLIPS[0], speaker="ada")
    assert ada.adapter == "speakers/ada" and before.adapter == "none"
    assert ada.segments[0].score != before.segments[0].score
    assert model.transcribe(CLIPS[0]) == before
    assert pqm_plugin.load(folder).transcribe(CLIPS[0], speaker="ada") == ada


def test_the_same_recordings_are_not_learned_twice_and_others_are(folder):
    model = pqm_plugin.load(folder)
    model.enroll("ada", CLIPS, TEXTS, options=OPTIONS)
    path = folder / "speakers/ada/adapter_model.safetensors"
    before = path.read_bytes()

    again = model.enroll("ada", CLIPS, TEXTS, options=OPTIONS)
    others = model.enroll("ada", CLIPS[::-1], TEXTS, options=OPTIONS)

    assert not again.is_new and others.is_new
    assert path.read_bytes() != before
    assert not list((folder / "speakers").glob(".ada.*.train"))


def test_an_enrolment_says_how_far_it_is_and_one_that_is_stopped_leaves_the_earlier_adapter(conformer):
    model = pqm_plugin.load(conformer)
    told = []
    model.enroll("ada", CLIPS, TEXTS, options=OPTIONS, watch=lambda *step: told.append(step))
    weights = conformer / "speakers/ada/adapter_model.safetensors"
    before = weights.read_bytes()

    def stop(step, done, total):
        if done:
            raise PqmError("stopped")

    with pytest.raises(PqmError, match="stopped"):
        model.enroll("ada", CLIPS[::-1], TEXTS, options=OPTIONS, watch=stop)

    assert {step for step, _, _ in told} == {"learning"}
    assert told[0][1] == 0 and told[-1][1] == told[-1][2]
    assert weights.read_bytes() == before
    assert model.transcribe(CLIPS[0], speaker="ada").adapter == "speakers/ada"
    assert model.enroll("ada", CLIPS[::-1], TEXTS, options=OPTIONS).is_new


def test_without_texts_it_says_how_many_recordings_it_listened_to(conformer):
    told = []

    def watch(step, done, total):
        told.append((step, done, total))

    with contextlib.suppress(PqmError):
        options = EnrollOptions(rank=1, epochs=1, min_confidence=0.0)
        pqm_plugin.load(conformer).enroll("ada", CLIPS[:3], options=options, watch=watch)

    assert [row for row in told if row[0] == "listening"] == [("listening", place, 3) for place in range(3)]


def test_one_recording_is_enough_and_two_enrolments_give_the_same_bytes(conformer):
    model = pqm_plugin.load(conformer)

    for name in ("one", "two"):
        model.enroll(name, CLIPS[:1], TEXTS[:1], options=OPTIONS)

    one, two = ((conformer / f"speakers/{name}/adapter_model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    assert read_info(conformer / "speakers/one").best_epoch > 0


def test_a_speaker_starts_from_sat_and_sat_is_what_anyone_is_heard_with(conformer):
    model = pqm_plugin.load(conformer)
    model.enroll("many", CLIPS, TEXTS, options=OPTIONS)
    (conformer / "speakers/many").rename(conformer / "sat")
    model = pqm_plugin.load(conformer)

    done = model.enroll("ada", CLIPS, TEXTS, options=EnrollOptions(rank=2, epochs=1))

    assert read_info(done.folder).request["start_sha256"]
    assert read_info(done.folder).parameters == read_info(conformer / "sat").parameters
    anyone, plain = model.transcribe(CLIPS[0]), model.transcribe(CLIPS[0], plain=True)
    assert (anyone.adapter, plain.adapter) == ("sat", "none")
    assert anyone.segments[0].score != plain.segments[0].score


def test_texts_in_another_letter_case_than_the_recipes_are_spelled_as_the_model_writes(conformer, caplog):
    model = pqm_plugin.load(conformer)
    model.enroll("many", CLIPS, TEXTS, options=OPTIONS)
    (conformer / "speakers/many").rename(conformer / "sat")
    info = read_json(conformer / "sat/pqm.json")
    # What stage 4 writes where the transcripts of a corpus were right as they were.
    write_json(conformer / "sat/pqm.json", info | {"request": info["request"] | {"text_case": "as is"}})
    model = pqm_plugin.load(conformer)

    upper, lower = (
        model.enroll(name, CLIPS, [case(text) for text in TEXTS], options=OPTIONS).folder
        for name, case in (("upper", str.upper), ("lower", str.lower))
    )

    assert "cannot spell" not in caplog.text
    assert read_info(lower).log == read_info(upper).log


@pytest.mark.parametrize("name", ["../../x", "con", "Zoë", "😀", "a" * 300, "", ".hidden", "log", "a/b"])
def test_a_name_that_cannot_be_a_folder_is_refused_before_anything_is_written(conformer, name):
    model = pqm_plugin.load(conformer)

    with pytest.raises(PqmError, match="speaker name"):
        model.enroll(name, CLIPS, TEXTS)
    with pytest.raises(PqmError, match="speaker name"):
        model.transcribe(CLIPS[0], speaker=name)

    assert not (conformer / "speakers").exists()


def test_what_cannot_be_learned_from_is_one_line(conformer):
    model = pqm_plugin.load(conformer)

    for clips, texts, why in (
        ([], [], "no recordings"),
        (CLIPS[:2], ["", " "], "texts are empty"),
        (CLIPS[:2], ["ONE"], "2 clips and 1 texts"),
        ([np.zeros(10, np.int16)], ["A"], "none of 1 recordings"),
    ):
        with pytest.raises(PqmError, match=why) as caught:
            model.enroll("ada", clips, texts, options=OPTIONS)
        assert "\n" not in str(caught.value)
    model.enroll("ada", CLIPS[:2], TEXTS[:2], options=OPTIONS)
    with pytest.raises(PqmError, match="letter case"):
        model.enroll("Ada", CLIPS[:2], TEXTS[:2], options=OPTIONS)


def test_a_damaged_model_and_a_configuration_that_is_not_its_own_are_refused(conformer):
    config = conformer / "config.yaml"
    text = config.read_text()
    for change, why in (
        (text.replace("output_size: 24", "output_size: 240000"), "far more memory"),
        (text.replace("token_list:", "bpemodel: /etc/hostname\ntoken_list:"), "outside of it"),
        (text.replace("encoder: conformer", "encoder: nothing"), "builds no model"),
    ):
        assert change != text
        config.write_text(change)
        with pytest.raises(PqmError, match=why):
            pqm_plugin.load(conformer)
    config.write_text(text)
    weights = bytearray((conformer / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (conformer / "model.safetensors").write_bytes(weights)

    with pytest.raises(PqmError, match="damaged"):
        pqm_plugin.load(conformer)


def test_speech2text_gives_the_tuples_that_espnet_gives(conformer, tiny_conformer):
    from espnet2.bin.asr_inference import Speech2Text

    options = {"beam_size": 4, "ctc_weight": 0.3, "nbest": 3, "maxlenratio": 0.3}
    stock = Speech2Text(tiny_conformer / "config.yaml", None, **options)
    ours = pqm_plugin.Speech2Text(conformer, **options)
    stock.asr_model.load_state_dict(
        {name: _weight(ours, name, value) for name, value in stock.asr_model.state_dict().items()}
    )
    speech = noise(3).astype(np.float32) / 32768

    expected, found = stock(speech), ours(speech)

    assert [row[:3] for row in found] == [row[:3] for row in expected]
    assert len(found) == 3
    assert [float(row[3].score) for row in found] == pytest.approx([float(row[3].score) for row in expected], abs=1e-4)


def _weight(ours, name: str, like: torch.Tensor) -> torch.Tensor:
    """The very weight that the packed model computes with."""
    module, _, leaf = name.rpartition(".")
    return getattr(ours.model.recognizer.network.get_submodule(module), leaf).reshape(like.shape)


def test_speech2text_hears_its_speaker_and_is_espnets_alone(conformer, whisper):
    pqm_plugin.load(conformer).enroll("ada", CLIPS, TEXTS, options=OPTIONS)
    speech = noise(3).astype(np.float32) / 32768
    options = {"beam_size": 2, "maxlenratio": 0.3}

    scores = [float(pqm_plugin.Speech2Text(conformer, name, **options)(speech)[0][3].score) for name in (None, "ada")]

    assert scores[0] != scores[1]
    with pytest.raises(PqmError, match="transcribe"):
        pqm_plugin.Speech2Text(whisper)(speech)
