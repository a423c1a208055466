"""Who may, how much, and how many at once: a server with small limits, and none of it leaves anything behind."""

import asyncio
import http.client
import json
import os
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote, urlsplit

import pytest

from pqm_plugin.commands.__main__ import main
from tests.api.conftest import fuzz_rounds
from tests.page.fakes import FakeModel
from tests.page.serving import PATIENCE_MS

BORDER = "border"


def form(*fields: tuple[str, bytes, str | None]) -> bytes:
    """A multipart body: name, content, and the name of the file if it is one."""
    parts = []
    for name, content, file in fields:
        kept = f'; filename="{file}"' if file else ""
        parts.append(f'--{BORDER}\r\nContent-Disposition: form-data; name="{name}"{kept}\r\n\r\n'.encode() + content)
    return b"\r\n".join(parts) + f"\r\n--{BORDER}--\r\n".encode()


def ask(served, method="POST", path="/v1/audio/transcriptions", body=b"", **headers):
    """The status, the headers and the JSON of an answer."""
    connection = http.client.HTTPConnection(urlsplit(served.url).netloc, timeout=PATIENCE_MS / 1000)
    sent = {"Content-Type": f"multipart/form-data; boundary={BORDER}"} | headers
    try:
        connection.request(method, path, body, sent)
    except OSError:
        pass
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, answer.headers, json.loads(data) if data.startswith(b"{") else data


@pytest.fixture(scope="module")
def small(serve):
    """One request at a time, of a tenth of a megabyte and three seconds, over Wyoming as well; nobody is enrolled."""
    bounds = ("--max_queue", "1", "--max_upload", "0.1", "--max_minutes", "0.05", "--no_enroll")
    with serve("--api", "--wyoming", "tcp://127.0.0.1:0", *bounds) as found:
        yield found


@pytest.fixture
def whole(speech):
    """The body of a request that is answered."""
    return form(("model", b"ada", None), ("file", speech[0].read_bytes(), "a.wav"))


@pytest.mark.slow
def test_one_too_many_is_told_when_to_come_again_and_a_caller_who_goes_gives_the_place_back(small, whole):
    with socket.create_connection(("127.0.0.1", urlsplit(small.url).port)) as slow:
        head = f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(whole)}\r\n"
        slow.sendall(f"{head}Content-Type: multipart/form-data; boundary={BORDER}\r\n\r\n".encode() + whole[:100])
        deadline = time.monotonic() + PATIENCE_MS / 1000
        while (found := ask(small, body=whole))[0] == 200 and time.monotonic() < deadline:
            pass
    status, headers, told = found
    assert status == 503 and 1 <= int(headers["Retry-After"]) <= 60
    assert told["error"]["code"] == "overloaded" and told["error"]["type"] == "server_error"

    while (found := ask(small, body=whole))[0] == 503 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert found[0] == 200 and found[2]["text"]
    assert not list(small.scratch.rglob("call_*"))


@pytest.mark.slow
def test_uploads_are_bounded_in_bytes_and_in_seconds_of_decoded_sound(small, speech, tmp_path):
    import numpy as np
    import soundfile

    soundfile.write(tmp_path / "long.flac", np.full(16000 * 60, 100, np.int16), 16000)
    long = (tmp_path / "long.flac").read_bytes()
    assert len(long) < 100_000

    bodies = [b"x" * 150_000, os.urandom(3_000_000), long]
    found = [ask(small, body=form(("model", b"ada", None), ("file", body, "a.flac"))) for body in bodies]

    assert [status for status, _, _ in found] == [413, 413, 400]
    assert [told["error"]["code"] for _, _, told in found][:2] == ["too_large"] * 2
    assert "the most is 3 s" in found[2][2]["error"]["message"]
    assert not list(small.scratch.rglob("call_*"))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_with_no_enroll_speakers_stay_as_they_are(method, small):
    status, _, told = ask(small, method, "/v1/speakers/ada")

    assert status == 403 and "--no_enroll" in told["error"]["message"]
    assert (small.model / "speakers/ada").is_dir()


@pytest.mark.slow
def test_another_page_and_another_name_are_refused_in_openais_form(small):
    for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}):
        status, _, told = ask(small, "GET", "/v1/models", **headers)
        assert status == 403 and told["error"]["type"] == "permission_error"


@pytest.mark.slow
def test_addresses_and_methods_that_are_none_have_errors_of_the_same_form(small):
    found = [ask(small, method, path) for method, path in (("GET", "/v1/nothing"), ("GET", "/v1/audio/transcriptions"))]

    assert [status for status, _, _ in found] == [404, 405]
    assert all(set(told["error"]) == {"message", "type", "param", "code"} for _, _, told in found)


@pytest.mark.slow
def test_broken_forms_end_in_errors_of_the_right_form_alone(small, whole, speech):
    chance = random.Random(1)
    sound = speech[0].read_bytes()[:2000]
    bodies = [
        b"",
        b"--",
        form(),
        form(("model", b"ada", None)),
        form(("file", sound, "a.wav")),
        form(("model", b"ada", "model.txt"), ("file", sound, "a.wav")),
        form(("model", b"ada", None), ("file", sound, "a.wav"), ("file", sound, "b.wav")),
        form(*[(f"field{place}", b"x", None) for place in range(2000)]),
        form(("model", b"\xff\xfe", None), ("file", b"", "a.wav")),
        form(("model", b"a" * 90_000, None), ("file", sound, "a.wav")),
    ]
    for _ in range(fuzz_rounds()):
        made = bytearray(whole[:3000])
        for _ in range(chance.choice((1, 2, 20))):
            made[chance.randrange(200)] = chance.randrange(256)
        bodies.append(bytes(made[: chance.randrange(1, len(made))]))

    for body in bodies:
        kind = chance.choice(
            (f"multipart/form-data; boundary={BORDER}",) * 4 + ("multipart/form-data", "text/x", "\xff")
        )
        status, _, told = ask(small, body=body, **{"Content-Type": kind})
        assert status in (200, 400, 404, 413), (body[:200], told)
        if status != 200:
            assert set(told["error"]) == {"message", "type", "param", "code"}, body[:200]
            assert str(small.scratch) not in told["error"]["message"]

    assert ask(small, body=whole)[0] == 200
    assert "Traceback" not in small.log.read_text() and not list(small.scratch.rglob("call_*"))


@pytest.mark.slow
def test_broken_chunks_and_lengths_that_lie_end_in_errors_and_the_next_request_is_answered(small, whole):
    chance = random.Random(2)
    head = "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: multipart/"
    head += f"form-data; boundary={BORDER}\r\n"
    chunked = "".join(f"{head}Transfer-Encoding: chunked\r\n\r\n").encode()
    half = len(whole) // 2
    pieces = [b"%x\r\n%s\r\n" % (len(part), part) for part in (whole[:half], whole[half:])]
    sent = [
        chunked + b"".join(pieces) + b"0\r\n\r\n",
        chunked + b"zz\r\n" + whole,
        chunked + b"-1\r\n" + whole,
        chunked + b"f" * 40 + b"\r\n" + whole,
        chunked + pieces[0] + b"0\r\n\r\n",
        f"{head}Content-Length: -5\r\n\r\n".encode() + whole,
        f"{head}Content-Length: {10**30}\r\n\r\n".encode() + whole,
        f"{head}Content-Length: 10\r\nContent-Length: 20\r\n\r\n".encode() + whole,
        f"{head}Content-Length: {half}\r\n\r\n".encode() + whole,
    ]
    for _ in range(fuzz_rounds()):
        made = bytearray(sent[0][:4000])
        for _ in range(chance.choice((1, 2, 20))):
            made[chance.randrange(60, len(made))] = chance.randrange(256)
        sent.append(bytes(made))

    for data in sent:
        with socket.create_connection(("127.0.0.1", urlsplit(small.url).port), timeout=PATIENCE_MS / 1000) as caller:
            try:
                caller.sendall(data)
                caller.shutdown(socket.SHUT_WR)
                answer = b"".join(iter(lambda: caller.recv(65536), b""))
            except OSError:
                continue
        head_of, _, body = answer.partition(b"\r\n\r\n")
        status = int(head_of.split()[1]) if head_of else 400
        assert status in (200, 400, 404, 413), answer
        # What is no HTTP the server itself refuses, in its own words.
        if status != 200 and b"application/json" in head_of:
            assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}

    assert ask(small, body=whole)[0] == 200
    assert "Traceback" not in small.log.read_text() and not list(small.scratch.rglob("call_*"))


@pytest.mark.slow
def test_neither_words_nor_names_of_recordings_nor_the_key_are_in_the_log(served, speech, words):
    from tests.api.conftest import KEY

    allowed = {"Authorization": f"Bearer {KEY}"}
    for content in (speech[0].read_bytes(), b"no sound"):
        fields = [("model", b"ada", None), ("prompt", b"privatematter", None), ("file", content, "privatename.wav")]
        status, _, told = ask(served, body=form(*fields), **allowed)
        assert "privatename" not in json.dumps(told) and status == (400 if content == b"no sound" else 200)
    ask(served, body=form(("model", b"privatespeaker", None), ("file", b"x", "privatename.wav")), **allowed)

    log = served.log.read_text()
    assert "private" not in log and KEY not in log and words(speech[0], "ada") not in log


@pytest.mark.slow
def test_over_wyoming_one_too_many_is_told_so_and_a_recording_that_is_too_long_as_well(small, speech, words):
    from tests.api.test_wyoming import AsyncClient, AudioChunk, AudioStart, address, chunks, noise, say

    async def begun_and_then_another():
        async with asyncio.timeout(PATIENCE_MS / 1000), AsyncClient.from_uri(address(small)) as first:
            await first.write_event(AudioStart(16000, 2, 1).event())
            while True:
                async with AsyncClient.from_uri(address(small)) as second:
                    await second.write_event(AudioStart(16000, 2, 1).event())
                    try:
                        return await asyncio.wait_for(second.read_event(), 2)
                    except TimeoutError:
                        continue

    refused = asyncio.run(begun_and_then_another())
    assert refused.type == "error" and refused.data["code"] == "overloaded"

    long = [AudioStart(8000, 2, 1), *[AudioChunk(8000, 2, 1, noise(0, 8000).tobytes())] * 4]
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while (told := say(small, *long))[0].data.get("code") == "overloaded" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert told[0].data["code"] == "invalid_request" and "more than 3 s" in told[0].data["text"]
    assert say(small, *chunks(speech[0]))[0].data["text"] == words(speech[0])
    assert not list(small.scratch.rglob("call_*"))


@pytest.fixture
def inside(model, tmp_path):
    """The API in this process, whose requests may take five seconds: its address, and its service."""
    import uvicorn
    from starlette.applications import Starlette

    import pqm_plugin
    from pqm_plugin.api.app import build
    from pqm_plugin.api.service import Service
    from pqm_plugin.page.desk import Desk
    from pqm_plugin.page.guard import Limits

    service = Service(Desk(pqm_plugin.load(model), Limits(request_s=5.0)), tmp_path)
    application = Starlette()
    application.mount("/v1", build(service))
    server = uvicorn.Server(uvicorn.Config(application, port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield type("Inside", (), {"url": f"http://127.0.0.1:{port}/", "service": service})
    server.should_exit = True
    thread.join()
    service.close()


@pytest.mark.slow
def test_a_request_that_takes_too_long_is_given_up_and_one_whose_caller_goes_is_not_computed(inside, whole, tmp_path):
    service, held = inside.service, inside.service.desk.model._alone
    deadline = time.monotonic() + PATIENCE_MS / 1000

    def wait_until(so) -> None:
        while not so():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    ask(inside, body=whole)
    before = service.batches.n_rows
    with held, ThreadPoolExecutor(1) as pool:
        # Nothing is computed while the model is held.
        first = pool.submit(ask, inside, body=whole)
        wait_until(lambda: service.batches._computing and service.batches.n_rows == before + 1)
        with socket.create_connection(("127.0.0.1", urlsplit(inside.url).port)) as caller:
            head = f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(whole)}\r\n"
            caller.sendall(f"{head}Content-Type: multipart/form-data; boundary={BORDER}\r\n\r\n".encode() + whole)
            wait_until(lambda: service.batches._rows)
        wait_until(lambda: not service.batches._rows)
        status, _, told = first.result()

    assert status == 504 and told["error"]["code"] == "timeout" and "took longer" in told["error"]["message"]
    assert service.batches.n_rows == before + 1
    assert ask(inside, body=whole)[0] == 200 and not list(tmp_path.glob("call_*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["../sat", "..%2f..%2fx", "ada/../bob", ".ada.lock", "con", "a" * 300, "é", "%00", "log"]
)
def test_a_speakers_name_is_never_a_path(name, served, speech):
    from tests.api.conftest import KEY

    before = sorted(path for path in served.model.rglob("*"))
    allowed = {"Authorization": f"Bearer {KEY}"}
    body = form(("file", speech[0].read_bytes(), "../../x.wav"), ("text", b"GO ON", None))

    for method in ("POST", "DELETE"):
        status, _, told = ask(served, method, f"/v1/speakers/{quote(name, safe='%/.')}", body, **allowed)
        assert status in (400, 404) and told["error"]["message"]
    assert sorted(path for path in served.model.rglob("*")) == before


@pytest.fixture
def folder(tmp_path):
    """A folder that looks like a model's, and is not loaded."""
    (tmp_path / "model").mkdir()
    return str(FakeModel(tmp_path / "model").folder.path)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--api", "--host", "0.0.0.0"], "which others reach: give a key"),
        (["--api", "--api_key", "short"], "at least 8"),
        (["--api", "--max_queue", "0"], "above 0"),
        (["--wyoming", "10300"], "tcp://HOST:PORT"),
        (["--wyoming", "tcp://127.0.0.1:99999"], "tcp://HOST:PORT"),
        (["--wyoming", "unix:///x"], "tcp://HOST:PORT"),
        (["--wyoming", "tcp://192.0.2.1:10300"], "192.0.2.1:10300"),
    ],
)
def test_options_that_make_no_sense_are_one_line(options, why, folder, capsys, monkeypatch):
    monkeypatch.delenv("PQM_API_KEY", raising=False)

    assert main(["serve", folder, "--port", "0", *options]) == 1

    said = capsys.readouterr().err
    assert why in said and said.startswith("pqm serve: ") and said.count("\n") == 1
