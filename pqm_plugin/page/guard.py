"""Limits of uploads, and an ASGI wrapper that refuses requests from other sites, names or without the key."""

import base64
import binascii
import hashlib
import hmac
import ipaddress
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from pqm_plugin.errors import PqmError


@dataclass(frozen=True)
class Limits:
    """The most that is accepted: bytes of a file, seconds of a recording to transcribe or to train on, and of all.

    `total_s` bounds the sum of the recordings of one enrolment. Of the API: `n_waiting` requests are held at once,
    those that are computed among them, and each is answered or given up within `request_s`.
    """

    upload_bytes: int = 50 * 10**6
    recording_s: float = 600.0
    clip_s: float = 30.0
    total_s: float = 1800.0
    n_waiting: int = 64
    request_s: float = 300.0

    def __post_init__(self) -> None:
        if self.upload_bytes < 1 or min(self.recording_s, self.clip_s, self.total_s) <= 0:
            raise PqmError("the largest upload and the longest recording are above 0")
        if self.n_waiting < 1 or self.request_s <= 0:
            raise PqmError("the requests that may wait, and the seconds of each, are above 0")


_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[Mapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_App = Callable[[_Scope, _Receive, _Send], Awaitable[None]]

# gradio writes scripts and styles into its page, makes functions of strings, and plays sounds from memory.
_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "media-src 'self' data: blob:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"permissions-policy", b"microphone=(self), camera=(), geolocation=()"),
    (b"referrer-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
)
_API = "/v1/"
_KINDS = {401: ("authentication_error", "invalid_api_key"), 403: ("permission_error", "forbidden")}
_LOCAL_NAMES = {"localhost"}
_MOST_BODY_BYTES = 16 * 10**6
"""Of a request that brings no files: what a page says of itself is far less. Files are bounded where they are read."""


def is_loopback(host: str) -> bool:
    """Whether a name or address, IPv6 with or without brackets, is this machine's own."""
    name = host.strip("[]").lower()
    if name in _LOCAL_NAMES:
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class Guard:
    """An ASGI application around the page's.

    Refused is a request from another page (its `Origin` is not ours), which a browser would send along with a visit to
    any web site; and, where we listen on the loopback address, one for another host, which is how a name that is made
    to point here reads the answers; and one that is larger than any of the page's own, but for files. Every answer says
    that the page may load from and send to its own origin alone.
    """

    def __init__(self, app: _App, *, local: bool, key: str | None = None) -> None:
        """Stand before `app`.

        Args:
            local: whether we listen on the loopback address.
            key: what every request must show: `Authorization: Bearer KEY`, or, as a browser asks its user for, a
                password of any name. It is compared in constant time.
        """
        self._app = app
        self._local = local
        self._digest = _digest(key.encode()) if key is not None else None

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        is_api = scope["path"].startswith(_API)
        # The API bounds what it takes where it reads it, as files are.
        bounded = scope["type"] == "http" and not is_api and not scope["path"].endswith("/upload")
        status, why = 403, self._refusal(headers)
        if not why and not self._has_key(headers):
            status, why = 401, "the key is wrong or missing: send it as `Authorization: Bearer KEY`"
        if not why and bounded and _length(headers) > _MOST_BODY_BYTES:
            status, why = 413, f"more than {_MOST_BODY_BYTES // 10**6} MB are sent as files alone"
        if why and scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif why:
            await _refuse(send, status, why, as_json=is_api)
        else:
            await self._app(scope, _bounded(receive) if bounded else receive, _with_headers(send))

    def _has_key(self, headers: Mapping[str, str]) -> bool:
        return self._digest is None or hmac.compare_digest(_digest(_shown(headers)), self._digest)

    def _refusal(self, headers: Mapping[str, str]) -> str:
        host = headers.get("host", "")
        if self._local and not is_loopback(_parts(f"//{host}").hostname or ""):
            return "this page is for the machine that it runs on; --host makes it another's, too"
        origin = headers.get("origin")
        if origin is not None and (_parts(origin).netloc or "null") != host:
            return "this page takes nothing from other pages"
        return ""


async def _refuse(send: _Send, status: int, why: str, *, as_json: bool) -> None:
    """Say why not; to programs in the form of OpenAI's API."""
    said = [*_HEADERS]
    if status == 401:
        said.append((b"www-authenticate", b'Basic realm="pqm", charset="UTF-8"'))
    if as_json:
        kind, code = _KINDS.get(status, ("invalid_request_error", None))
        body = json.dumps({"error": {"message": why, "type": kind, "param": None, "code": code}})
    else:
        body = f"{why}\n"
    said.append((b"content-type", b"application/json" if as_json else b"text/plain; charset=utf-8"))
    await send({"type": "http.response.start", "status": status, "headers": said})
    await send({"type": "http.response.body", "body": body.encode()})


def _digest(key: bytes) -> bytes:
    """Of equal length for all keys, so that comparing tells nothing of the length, either."""
    return hashlib.sha256(key).digest()


def _shown(headers: Mapping[str, str]) -> bytes:
    """The key that a request shows; empty where it shows none."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode("latin-1")
    if scheme.lower() != "basic":
        return b""
    try:
        return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return b""


def _parts(address: str) -> SplitResult:
    """The parts of an address; of one that is none, empty ones, which nobody is allowed."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


def _length(headers: Mapping[str, str]) -> int:
    told = headers.get("content-length", "0")
    return int(told) if told.isdigit() else 0


def _bounded(receive: _Receive) -> _Receive:
    """Ends a body that is longer than it may be, whatever it said of its length, as if the sender had gone."""
    seen = 0

    async def receiving() -> Mapping[str, Any]:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        return message if seen <= _MOST_BODY_BYTES else {"type": "http.disconnect"}

    return receiving


def _with_headers(send: _Send) -> _Send:
    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *_HEADERS]
        await send(message)

    return sending
