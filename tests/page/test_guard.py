"""Only the page itself talks to the page, and the page to nobody else."""

import asyncio
import base64
import json

import pytest

from pqm_plugin.page.guard import Guard, is_loopback


async def page(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
    await send({"type": "http.response.body", "body": b"the page"})


def ask(local: bool, kind: str = "http", path: str = "/", key: str | None = None, **headers: str) -> list[dict]:
    sent: list[dict] = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {}

    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    asyncio.run(Guard(page, local=local, key=key)({"type": kind, "path": path, "headers": pairs}, receive, send))
    return sent


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "LOCALHOST", "[::1]:7860", "127.8.9.1"])
def test_this_machine_is_answered_and_told_to_load_nothing_from_elsewhere(host):
    start, body = ask(True, host=host, origin=f"http://{host}")

    headers = dict(start["headers"])
    assert start["status"] == 200 and body["body"] == b"the page" and headers[b"x"] == b"y"
    policy = headers[b"content-security-policy"].decode()
    assert "default-src 'self'" in policy and "connect-src 'self' data: blob:" in policy and "http" not in policy


@pytest.mark.parametrize("host", ["evil.example:7860", "127.0.0.1.evil.example", "192.168.0.4:7860", "", "["])
def test_a_name_that_merely_points_here_is_refused_where_we_are_local(host):
    assert ask(True, host=host)[0]["status"] == 403


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:9999", "http://localhost:7860"])
@pytest.mark.parametrize("local", [True, False])
def test_another_page_in_the_same_browser_is_refused(origin, local):
    assert ask(local, host="127.0.0.1:7860", origin=origin)[0]["status"] == 403


def test_who_listens_for_others_answers_to_other_names():
    assert ask(False, host="box.example:7860", origin="http://box.example:7860")[0]["status"] == 200


def test_a_socket_from_elsewhere_is_closed():
    assert ask(True, "websocket", host="evil.example") == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.parametrize(
    ("path", "length", "status"),
    [
        ("/gradio_api/queue/join", "16000000", 200),
        ("/gradio_api/queue/join", "16000001", 413),
        ("/gradio_api/upload", "16000001", 200),
        ("/gradio_api/queue/join", "many", 200),
    ],
)
def test_more_than_the_page_ever_says_is_refused_before_it_is_read_but_for_files(path, length, status):
    assert ask(True, path=path, host="localhost", content_length=length)[0]["status"] == status


@pytest.mark.parametrize(("path", "read"), [("/gradio_api/queue/join", 16_000_000), ("/gradio_api/upload", 40_000_000)])
def test_a_body_that_does_not_say_its_length_ends_where_it_becomes_too_long(path, read):
    got = 0

    async def app(scope, receive, send):
        nonlocal got
        while (message := await receive())["type"] == "http.request" and message["more_body"]:
            got += len(message["body"])

    chunks = [{"type": "http.request", "body": bytes(10**6), "more_body": True}] * 40
    chunks += [{"type": "http.request", "body": b"", "more_body": False}]
    waiting = iter(chunks)

    async def receive():
        return next(waiting)

    asyncio.run(Guard(app, local=False)({"type": "http", "path": path, "headers": [(b"host", b"box")]}, receive, None))

    assert got == read


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("box", False)],
)
def test_the_loopback_addresses_are_known(host, expected):
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("shown", "status"),
    [
        ("Bearer the right key", 200),
        ("bearer the right key", 200),
        ("Basic " + base64.b64encode(b"anyone:the right key").decode(), 200),
        ("Bearer the wrong key", 401),
        ("Bearer ", 401),
        ("Basic not base64", 401),
        ("Basic " + base64.b64encode(b"the right key").decode(), 401),
        ("the right key", 401),
        ("Bearer the right key\xff", 401),
    ],
)
def test_with_a_key_whoever_shows_another_is_refused(shown, status):
    for path in ("/", "/v1/models", "/upload"):
        sent = ask(False, path=path, key="the right key", host="here", authorization=shown)
        assert sent[0]["status"] == status


def test_without_a_key_shown_programs_are_told_in_openais_form_and_browsers_ask_for_it():
    (program, told), (browser, _) = (ask(True, path=p, key="abc", host="localhost") for p in ("/v1/models", "/"))
    socket = ask(True, kind="websocket", key="abc", host="localhost")

    assert json.loads(told["body"])["error"]["code"] == "invalid_api_key"
    assert (program["status"], browser["status"]) == (401, 401)
    assert dict(browser["headers"])[b"www-authenticate"].startswith(b"Basic ")
    assert socket == [{"type": "websocket.close", "code": 1008}]
