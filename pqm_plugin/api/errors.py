"""Errors as OpenAI's clients read them: a message, its type, the parameter, and a code."""

import json
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from pqm_plugin.api.service import BusyError, UnknownModelError
from pqm_plugin.errors import PqmError

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
    """What a caller can mend: an HTTP status, a line that says it, and the field that it is about."""

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
