"""The `wyoming` package's client against a running server: words as `pqm transcribe` writes them, by speaker."""

import asyncio
import json
import random
import socket
import wave
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile

from tests.api.conftest import fuzz_rounds
from tests.page.serving import PATIENCE_MS
from tests.personal.conftest import noise

wyoming = pytest.importorskip("wyoming", reason="no wyoming: pip install 'pqm_plugin[wyoming]'")
from wyoming.asr import Transcribe  # noqa: E402
from wyoming.audio import AudioChunk, AudioStart, AudioStop, wav_to_chunks  # noqa: E402
from wyoming.client import AsyncClient  # noqa: E402
from wyoming.event import Event  # noqa: E402
from wyoming.info import Describe, Info  # noqa: E402

pytestmark = pytest.mark.slow


def address(served) -> str:
    return served.others[-1].rpartition(" ")[2]


def say(served, *events) -> list[Event]:
    """Send events and return what comes until the server ends the connection, or says its info."""

    async def talk() -> list[Event]:
        told: list[Event] = []
        async with asyncio.timeout(PATIENCE_MS / 1000), AsyncClient.from_uri(address(served)) as client:
            for event in events:
                await client.write_event(event.event() if hasattr(event, "event") else event)
            while not (told and told[-1].type == "info") and (event := await client.read_event()) is not None:
                told.append(event)
        return told

    return asyncio.run(talk())


def chunks(path: Path, samples_per_chunk: int = 1024) -> list:
    with wave.open(str(path)) as file:
        return list(wav_to_chunks(file, samples_per_chunk, start_event=True, stop_event=True))


def test_describe_lists_each_speaker_as_a_model(served):
    [told] = say(served, Describe())

    [program] = Info.from_event(told).asr
    assert program.installed and [model.name for model in program.models][:3] == ["model", "ada", "bob"]
    assert all(model.languages == ["en"] and model.installed for model in program.models)
    assert "a speaker of model" in program.models[1].description


@pytest.mark.parametrize("name", [None, "ada", "model/bob"])
def test_the_name_chooses_the_speaker_and_the_words_are_those_of_pqm_transcribe(name, served, speech, words):
    [told] = say(served, Transcribe(name=name, language="en"), *chunks(speech[1]))

    assert told.type == "transcript" and told.data["text"] == words(speech[1], name and name.split("/")[-1])


@pytest.mark.parametrize(
    ("rate", "n_channels", "subtype"), [(48000, 2, "PCM_24"), (8000, 1, "PCM_U8"), (22050, 1, "PCM_32")]
)
def test_chunks_of_any_rate_width_and_channels_are_heard_as_the_same_file(
    rate, n_channels, subtype, served, words, tmp_path
):
    path = tmp_path / "odd.wav"
    samples = np.stack([noise(5, 2 * rate)] * n_channels, axis=1) / 2.0**15
    soundfile.write(path, samples, rate, subtype=subtype)

    [told] = say(served, Transcribe(name="ada"), *chunks(path, 777))

    assert told.data["text"] == words(path, "ada") != ""


def test_what_wyoming_faster_whisper_takes_is_taken(served, speech, words):
    whole = chunks(speech[2])

    without_start = say(served, *whole[1:])
    unknown = say(served, Event("detect", {"names": []}), *whole)
    nothing = say(served, AudioStart(16000, 2, 1), AudioStop())

    assert [each[0].data["text"] for each in (without_start, unknown)] == [words(speech[2])] * 2
    assert nothing[0].data["text"] == "" and nothing[0].type == "transcript"


@pytest.mark.parametrize(
    ("events", "code"),
    [
        ([Transcribe(name="nobody"), AudioChunk(16000, 2, 1, noise(0).tobytes()), AudioStop()], "model_not_found"),
        ([AudioStart(16000, 7, 1)], "invalid_request"),
        ([AudioStart(10**9, 2, 1)], "invalid_request"),
        ([AudioStart(16000, 2, 0)], "invalid_request"),
        ([AudioChunk(16000, 2, 1, b"\0\0"), AudioChunk(8000, 2, 1, b"\0\0")], "invalid_request"),
        ([Event("audio-chunk", {"rate": 16000})], "bad_event"),
    ],
)
def test_what_cannot_be_heard_is_an_error_event_and_the_end(events, code, served):
    [told] = say(served, *events)

    assert told.type == "error" and told.data["code"] == code and told.data["text"].count("\n") == 0


def test_a_stream_that_promises_a_terabyte_or_is_none_costs_nothing_and_others_go_on(served, speech, words):
    host, port = urlsplit(address(served)).hostname, urlsplit(address(served)).port
    chance = random.Random(0)
    whole = b'{"type": "audio-chunk", "data": {"rate": 16000, "width": 2, "channels": 1}, "payload_length": 4}\nabcd'
    sent = [
        b'{"type": "audio-chunk", "payload_length": 1000000000000}\n' + b"x" * 1000,
        b'{"type": "x", "data_length": -1, "payload_length": "a"}\n',
        b"[]\n",
        b"{}\n",
        b"[" * 60000 + b"\n",
        b"x" * 10**6,
        b"GET / HTTP/1.1\r\n\r\n",
    ]
    for _ in range(fuzz_rounds()):
        made = bytearray(whole * 2)
        for _ in range(chance.choice((1, 2, 8))):
            made[chance.randrange(len(made))] = chance.randrange(256)
        sent.append(bytes(made[: chance.randrange(1, len(made))]))

    answers = []
    for data in sent:
        with socket.create_connection((host, port), timeout=PATIENCE_MS / 1000) as caller:
            try:
                caller.sendall(data)
                caller.shutdown(socket.SHUT_WR)
                answers.append(b"".join(iter(lambda: caller.recv(65536), b"")))
            except OSError:
                answers.append(b"")

    kinds = {json.loads(answer.splitlines()[0])["type"] for answer in answers if answer}
    assert kinds <= {"error", "transcript", "info"}
    assert say(served, *chunks(speech[0]))[0].data["text"] == words(speech[0])
    assert "Traceback" not in served.log.read_text()
