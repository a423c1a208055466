"""Error bodies and enrolment events in the form of OpenAI's API."""

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from pqm_plugin.api.service import BusyError, Service, UnknownModelError, unplaced
from pqm_plugin.errors import PqmError
from pqm_plugin.page.desk import Reading
from pqm_plugin.personal.enrollment import Enrolled

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CODES = {
    401: "invalid_api_key",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    409: "conflict",
    413: "too_large",
    503: "overloaded",
    504: "timeout",
}
_LONGEST = 1000
# 499 is nginx's number for a caller who has gone; nobody reads it.
_STATUS: Mapping[type[Exception], int] = {
    BusyError: 503,
    UnknownModelError: 404,
    PqmError: 400,
    ClientDisconnect: 499,
    TimeoutError: 504,
}
_WORDS = {
    499: "the caller has gone",
    500: "this failed inside; the server's log says more",
    504: "it took longer than a request may: send a shorter recording",
}


class ApiError(Exception):
    """What a caller can correct: an HTTP status, a line that says it, and the field that it is about."""

    def __init__(self, status: int, message: str, param: str | None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code or _CODES.get(status)


def body(status: int, message: str, param: str | None = None, code: str | None = None) -> Mapping[str, Any]:
    """The object that tells an error."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    line = " ".join(message.split())[:_LONGEST]
    return {"error": {"message": line, "type": kind, "param": param, "code": code or _CODES.get(status)}}


def as_answer(_: Any, error: Exception) -> JSONResponse:
    """The answer to an error of any kind."""
    headers = {"Retry-After": str(error.wait_s)} if isinstance(error, BusyError) else getattr(error, "headers", None)
    return JSONResponse(told(error), _status(error), headers)


def told(error: Exception) -> Mapping[str, Any]:
    """The object that tells an error; one that nobody foresaw tells nothing of the inside."""
    status = _status(error)
    if isinstance(error, ApiError):
        return body(status, str(error), error.param, error.code)
    if isinstance(error, UnknownModelError):
        return body(status, str(error), "model", "model_not_found")
    if isinstance(error, HTTPException):
        return body(status, error.detail)
    if isinstance(error, PqmError):
        return body(status, str(error))
    return body(status, _WORDS[status])


def _status(error: Exception) -> int:
    if isinstance(error, ApiError):
        return error.status
    if isinstance(error, HTTPException):
        return error.status_code
    return next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500)


def event(value: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


_log = logging.getLogger(__name__)
# Proxies close what is silent for longer.
_SILENT_S = 10.0


async def enrolling(
    service: Service, speaker: str, readings: Sequence[Reading], *, anew: bool
) -> AsyncGenerator[bytes]:
    """Enrol, and yield server-sent events: progress, then the result, or an error.

    A caller who goes ends it after the batch that is being computed; the same recordings go on from there.
    """
    news: asyncio.Queue[Mapping[str, Any] | None] = asyncio.Queue()
    loop, user = asyncio.get_running_loop(), f"api {secrets.token_hex(8)}"

    def tell(value: Mapping[str, Any] | None) -> None:
        loop.call_soon_threadsafe(news.put_nowait, value)

    def watch(step: str, done: int, total: int) -> None:
        tell({"type": "speaker.progress", "step": step, "done": done, "total": total})

    def learn() -> None:
        try:
            done = service.desk.enroll(user, speaker, readings, anew=anew, watch=watch)
            tell(_done(done))
        except PqmError as error:
            tell(told(_named(error, readings)))
        except Exception as error:  # noqa: BLE001  # Whatever it is, the caller is told that it ended.
            _log.exception("an enrolment failed")
            tell(told(error))
        finally:
            tell(None)

    loop.run_in_executor(service.learners, learn)
    try:
        while True:
            try:
                value = await asyncio.wait_for(news.get(), _SILENT_S)
            except TimeoutError:
                yield b": still here\n\n"
                continue
            if value is None:
                break
            yield event(value)
        yield b"data: [DONE]\n\n"
    finally:
        service.desk.stop(user)


def _named(error: PqmError, readings: Sequence[Reading]) -> PqmError:
    """The error with recordings called by their place among those that were sent."""
    words = str(error)
    for number, reading in enumerate(readings, start=1):
        words = words.replace(str(reading.path), f"recording {number}").replace(
            reading.path.name, f"recording {number}"
        )
    return unplaced(PqmError(words), readings[0].path)


def _done(found: Enrolled) -> Mapping[str, Any]:
    return {
        "type": "speaker.done",
        "id": found.speaker,
        "n_clips": found.n_clips,
        "duration": round(found.duration_s, 3),
        "is_new": found.is_new,
    }
