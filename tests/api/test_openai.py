"""The `openai` package against a running `pqm serve --api`: its words are those of `pqm transcribe`."""

import json
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pytest

from tests.api.conftest import KEY

openai = pytest.importorskip("openai", reason="no openai: pip install 'pqm_plugin[test]'")
pytestmark = pytest.mark.slow
SPEAKERS = (None, "ada", "bob")


@pytest.fixture(scope="module")
def client(served):
    """OpenAI's own client, which does not try again."""
    with openai.OpenAI(base_url=f"{served.url}v1", api_key=KEY, max_retries=0) as made:
        yield made


def test_models_are_the_model_and_its_speakers_with_their_parent(client):
    listed = client.models.list().data

    assert [(each.id, each.parent) for each in listed] == [("model", None), ("ada", "model"), ("bob", "model")]
    assert client.models.retrieve("model/ada").id == "ada"
    with pytest.raises(openai.NotFoundError) as told:
        client.models.retrieve("adda")
    assert told.value.code == "model_not_found" and "nearest: ada" in told.value.message


@pytest.mark.parametrize("speaker", SPEAKERS)
def test_words_are_those_of_pqm_transcribe_in_every_form(speaker, client, speech, words):
    name = speaker or "model"

    found = {
        form: client.audio.transcriptions.create(file=speech[-1], model=name, response_format=form)
        for form in ("json", "text", "srt", "vtt", "verbose_json")
    }

    assert found["json"].text == found["verbose_json"].text == found["text"].rstrip("\n") == words(speech[-1], speaker)
    assert found["srt"] == words(speech[-1], speaker, "srt")
    assert found["vtt"].startswith("WEBVTT\n\n00:00:0") and found["vtt"].count(" --> ") == found["srt"].count(" --> ")
    told = json.loads(words(speech[-1], speaker, "json"))
    assert found["verbose_json"].duration == told["duration_s"] == 10.0
    assert [part.text for part in found["verbose_json"].segments] == [
        part["text"] for part in told["segments"] if part["text"]
    ]


def test_a_stream_has_the_words_piece_by_piece_and_then_all_of_them(client, speech, words):
    events = list(client.audio.transcriptions.create(file=speech[-1], model="model/bob", stream=True))

    assert [event.type for event in events[:-1]] == ["transcript.text.delta"] * (len(events) - 1)
    assert events[-1].type == "transcript.text.done"
    assert events[-1].text == "".join(event.delta for event in events[:-1]) == words(speech[-1], "bob")


def test_fifty_callers_at_once_of_several_speakers_get_the_words_that_each_gets_alone(client, speech, words):
    asked = list(product(SPEAKERS, speech[:-1]))
    expected = [words(audio, speaker) for speaker, audio in asked]

    def ask(one):
        return client.audio.transcriptions.create(file=one[1], model=one[0] or "model").text

    with ThreadPoolExecutor(50) as pool:
        found = list(pool.map(ask, asked * 3))

    assert found == expected * 3
    assert len(set(expected)) > len(speech), "the adapters must make a difference here"


@pytest.mark.parametrize(
    ("options", "status", "param"),
    [
        ({"model": "nobody"}, 404, "model"),
        ({"model": "other/ada"}, 404, "model"),
        ({"model": "../model"}, 404, "model"),
        ({"language": "de"}, 400, "language"),
        ({"temperature": 3.0}, 400, "temperature"),
        ({"response_format": "diarized_json"}, 400, "response_format"),
        ({"response_format": "srt", "stream": True}, 400, "stream"),
        ({"timestamp_granularities": ["word"]}, 400, "timestamp_granularities"),
    ],
)
def test_what_cannot_be_had_is_an_error_in_openais_form(options, status, param, client, speech):
    with pytest.raises(openai.APIStatusError) as told:
        client.audio.transcriptions.create(**{"file": speech[0], "model": "ada"} | options)

    assert (told.value.status_code, told.value.param) == (status, param)
    assert told.value.type == "invalid_request_error" and str(told.value.message).count("\n") == 0


def test_a_file_that_is_no_sound_is_named_without_a_path_of_the_server(client, served):
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as told:
            client.audio.transcriptions.create(file=("secret.wav", b"not a sound"), model="ada", stream=stream)

        assert "the recording" in told.value.message
        assert str(served.scratch) not in told.value.message and "call_" not in told.value.message
    assert not list(served.scratch.rglob("call_*"))


def test_without_the_key_nothing_is_answered_and_the_page_wants_it_too(served, speech):
    import httpx

    for key in ("", "a wrong key"):
        with openai.OpenAI(base_url=f"{served.url}v1", api_key=key or "x", max_retries=0) as stranger:
            with pytest.raises(openai.AuthenticationError) as told:
                stranger.audio.transcriptions.create(file=speech[0], model="ada")
        assert (told.value.code, told.value.type) == ("invalid_api_key", "authentication_error")
    assert [httpx.get(served.url, auth=auth).status_code for auth in (None, ("me", "wrong"), ("me", KEY))] == [
        401,
        401,
        200,
    ]


def test_a_prompt_changes_no_word(client, speech, words):
    found = client.audio.transcriptions.create(file=speech[0], model="ada", prompt="names", temperature=0.2)

    assert found.text == words(speech[0], "ada")
