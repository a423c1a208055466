"""OpenAI's transcription API over HTTP; a speaker is a model."""

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from pqm_plugin.api.answers import ApiError, as_answer, enrolling, event, told
from pqm_plugin.api.service import Call, Service, UnknownModelError
from pqm_plugin.errors import PqmError
from pqm_plugin.page.desk import Reading
from pqm_plugin.personal.transcript import Segment, Transcript

_FORMATS = ("json", "text", "srt", "vtt", "verbose_json")
_SUBTITLES = ("srt", "vtt")
# Fields and the borders between parts, beside the files themselves.
_AROUND_BYTES = 2**20
_MOST_FIELDS = 64
_MOST_CLIPS = 1000
_COPY_BYTES = 2**20
# A recording that takes longer to come than this between two packets has stopped coming.
_STILL_S = 30.0
# What is too large is read and thrown away up to this, so that its sender, who reads when all is sent, reads why.
_DRAINED = 4


def build(service: Service) -> Starlette:
    """The application, to be mounted at `/v1`."""
    api = _Api(service)
    return Starlette(
        routes=[
            Route("/models", api.models),
            Route("/models/{name:path}", api.model),
            Route("/audio/transcriptions", api.transcribe, methods=["POST"]),
            Route("/speakers/{name:path}", api.enroll, methods=["POST"]),
            Route("/speakers/{name:path}", api.forget, methods=["DELETE"]),
        ],
        exception_handlers={
            ApiError: as_answer,
            PqmError: as_answer,
            HTTPException: as_answer,
            ClientDisconnect: as_answer,
            TimeoutError: as_answer,
            Exception: as_answer,
        },
    )


class _Api:
    """What each address does."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def models(self, _: Request) -> Response:
        listed = [_model(each) for each in self._service.models()]
        return JSONResponse({"object": "list", "data": listed})

    async def model(self, request: Request) -> Response:
        return JSONResponse(_model(self._service.model(request.path_params["name"])))

    async def transcribe(self, request: Request) -> Response:
        async with AsyncExitStack() as stack:
            stack.enter_context(self._service.place())
            limit = self._service.limits.upload_bytes
            form = await stack.enter_async_context(_Form(request, limit + _AROUND_BYTES, n_files=1))
            wanted = _Wanted(form)
            speaker = self._service.speaker(wanted.model)
            path = stack.enter_context(self._service.file())
            await _keep(wanted.file, path, limit)
            language = wanted.language
            try:
                call = await self._service.hear(path, speaker, wanted.longest, language)
            except PqmError as error:
                raise ApiError(400, str(error), "language" if str(error).startswith("language") else "file") from None
            if not wanted.stream:
                return wanted.answer(await _unless_gone(request, call.transcript()), call)
            segments = call.segments()
            stack.push_async_callback(segments.aclose)
            # Before anything is sent, so that a file that is not audio has a status of its own.
            first = await _unless_gone(request, anext(segments, None))
            return _Events(_streamed(first, segments), stack.pop_all())

    async def enroll(self, request: Request) -> Response:
        name, desk = request.path_params["name"], self._service.desk
        self._may_enroll()
        desk.folder.speaker(name)
        async with AsyncExitStack() as stack:
            stack.enter_context(self._service.place("enroll"))
            limit = self._service.limits.upload_bytes
            body = _Form(request, _DRAINED * limit + _AROUND_BYTES, n_files=_MOST_CLIPS, n_fields=_MOST_CLIPS + 8)
            form = await stack.enter_async_context(body)
            anew = _flag(form, "anew")
            if not anew and self._service.knows(name):
                raise ApiError(409, f"{name} is enrolled already: choose another name, or send anew=true", "name")
            files, texts = _clips(form)
            readings = []
            for place, file in enumerate(files):
                path = stack.enter_context(self._service.file())
                await _keep(file, path, limit)
                readings.append(Reading(path, texts[place] if texts else None))
            return _Events(enrolling(self._service, name, readings, anew=anew), stack.pop_all())

    async def forget(self, request: Request) -> Response:
        name = request.path_params["name"]
        self._may_enroll()
        self._service.desk.folder.speaker(name)
        if not self._service.knows(name):
            raise UnknownModelError(f"there is no speaker {name!r}")
        await run_in_threadpool(self._service.forget, name)
        return JSONResponse({"id": name, "object": "model", "deleted": True})

    def _may_enroll(self) -> None:
        if not self._service.may_enroll:
            raise ApiError(403, "this server was started with --no_enroll: its speakers stay as they are", None)


def _model(found: Any) -> Mapping[str, Any]:
    return {
        "id": found.name,
        "object": "model",
        "created": found.created,
        "owned_by": "pqm",
        "parent": found.parent,
    }


class _Wanted:
    """What a transcription asks for.

    Raises:
        ApiError: for a field that is missing, or holds what it may not.
    """

    def __init__(self, form: FormData) -> None:
        files = form.getlist("file")
        if len(files) != 1 or not isinstance(files[0], UploadFile):
            raise ApiError(400, "file: send one recording, as a file of the form", "file")
        self.file: UploadFile = files[0]
        self.model = _text(form, "model")
        if not self.model:
            raise ApiError(400, "model: name one of GET /v1/models", "model")
        self.form = _text(form, "response_format") or "json"
        if self.form not in _FORMATS:
            raise ApiError(400, f"response_format {self.form[:40]!r}: one of {', '.join(_FORMATS)}", "response_format")
        self.language = _text(form, "language") or None
        self.stream = _flag(form, "stream")
        if self.stream and self.form not in ("json", "text"):
            raise ApiError(400, f"stream with response_format {self.form}: events have plain text", "stream")
        _check_temperature(_text(form, "temperature"))
        units = form.getlist("timestamp_granularities[]") + form.getlist("timestamp_granularities")
        if any(unit != "segment" for unit in units):
            raise ApiError(400, "timestamp_granularities: only segment is supported", "timestamp_granularities")

    @property
    def longest(self) -> str:
        """The form of `pqm transcribe` whose segments are wanted."""
        return "srt" if self.form in _SUBTITLES else "json"

    def answer(self, found: Transcript, call: Call) -> Response:
        """The transcript in the form that was asked for."""
        if self.form == "json":
            return JSONResponse({"text": found.text, "usage": _usage(found)})
        if self.form == "verbose_json":
            return JSONResponse(_verbose(found, call.hearing.language))
        text = {"text": f"{found.text}\n", "srt": found.as_srt(), "vtt": found.as_vtt()}[self.form]
        return PlainTextResponse(text)


def _usage(found: Transcript) -> Mapping[str, Any]:
    return {"type": "duration", "seconds": math.ceil(found.duration_s)}


def _verbose(found: Transcript, language: str) -> Mapping[str, Any]:
    """OpenAI's form; what this search does not know (tokens, the probability of silence) is empty or 0."""
    segments = [
        {
            "id": place,
            "seek": 0,
            "start": round(segment.start_s, 3),
            "end": round(segment.end_s, 3),
            "text": segment.text,
            "tokens": [],
            "temperature": 0.0,
            "avg_logprob": round(math.log(max(segment.confidence, 1e-9)), 4),
            "compression_ratio": 1.0,
            "no_speech_prob": 0.0,
            "confidence": round(segment.confidence, 4),
        }
        for place, segment in enumerate(found.spoken)
    ]
    return {
        "task": "transcribe",
        "language": language,
        "duration": round(found.duration_s, 3),
        "text": found.text,
        "segments": segments,
        "usage": _usage(found),
    }


def _text(form: FormData, name: str) -> str:
    value = form.get(name, "")
    if not isinstance(value, str):
        raise ApiError(400, f"{name}: a text, not a file", name)
    return value.strip()


def _flag(form: FormData, name: str) -> bool:
    value = _text(form, name).lower()
    if value not in ("", "true", "false", "1", "0"):
        raise ApiError(400, f"{name} {value[:40]!r}: true or false", name)
    return value in ("true", "1")


def _check_temperature(value: str) -> None:
    try:
        fits = not value or 0 <= float(value) <= 1
    except ValueError:
        fits = False
    if not fits:
        raise ApiError(400, f"temperature {value[:40]!r}: a number from 0 to 1", "temperature")


def _clips(form: FormData) -> tuple[list[UploadFile], list[str]]:
    """Recordings to train on, and their texts in the same order, or none."""
    files = [file for file in form.getlist("file") if isinstance(file, UploadFile)]
    texts = [" ".join(text.split()) for text in form.getlist("text") if isinstance(text, str)]
    if not files:
        raise ApiError(400, "file: send at least one recording, as files of the form", "file")
    if texts and len(texts) != len(files):
        raise ApiError(400, f"text: {len(files)} recordings and {len(texts)} texts: send one for each, or none", "text")
    return files, texts


async def _streamed(first: Segment | None, segments: AsyncGenerator[Segment]) -> AsyncGenerator[bytes]:
    """Events as the words are found; what went before cannot be taken back, so that an error is an event as well."""
    words: list[str] = []
    try:
        segment = first
        while segment is not None:
            if segment.text:
                yield event({"type": "transcript.text.delta", "delta": f" {segment.text}" if words else segment.text})
                words.append(segment.text)
            segment = await anext(segments, None)
        yield event({"type": "transcript.text.done", "text": " ".join(words)})
        yield b"data: [DONE]\n\n"
    except (PqmError, TimeoutError) as error:
        yield event(told(error))


class _Events(StreamingResponse):
    """Server-sent events; whether they end or the caller goes, what is held for them is then given back."""

    def __init__(self, events: AsyncGenerator[bytes], held: AsyncExitStack) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._events = events
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            try:
                # Of a later version, starlette would notice that the caller has gone at the next event alone.
                await super().__call__({**scope, "asgi": {"spec_version": "2.3"}}, receive, send)
            finally:
                await self._events.aclose()


async def _unless_gone[T](request: Request, work: Awaitable[T]) -> T:
    """What `work` gives, unless the caller goes: then it is cancelled."""
    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.wait({working, watching})


async def _left(request: Request) -> None:
    kind = ""
    while kind != "http.disconnect":
        kind = (await request.receive())["type"]


class _Form:
    """A multipart form of at most `most_bytes`, within the time that a sender may take; closed at the end.

    Raises:
        ApiError: if it is larger, is none, comes too slowly, or has too many parts.
    """

    def __init__(self, request: Request, most_bytes: int, n_files: int, n_fields: int = _MOST_FIELDS) -> None:
        self._request = request
        self._most = most_bytes
        self._numbers = {"max_files": n_files, "max_fields": n_fields}
        self._read = 0
        self._form: FormData | None = None

    async def __aenter__(self) -> FormData:
        if not self._request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            raise ApiError(400, "send a form, multipart/form-data", None)
        told = self._request.headers.get("content-length", "0")
        if told.isdigit() and int(told) > self._most:
            await self._drain(int(told))
            raise self._too_large()
        bounded = Request(self._request.scope, self._receive)
        try:
            self._form = await bounded.form(**self._numbers)
        except (MultiPartException, HTTPException) as error:
            why = getattr(error, "message", "") or getattr(error, "detail", "")
            raise ApiError(400, f"the form cannot be read: {why}", None) from None
        except (AssertionError, UnicodeError, ValueError, LookupError) as error:
            raise ApiError(400, f"the form cannot be read: {type(error).__name__}", None) from None
        return self._form

    async def __aexit__(self, *_: object) -> None:
        if self._form is not None:
            await self._form.close()

    async def _receive(self) -> Any:
        message = await self._within_time()
        self._read += len(message.get("body", b""))
        if self._read > self._most:
            await self._drain()
            raise self._too_large()
        return message

    async def _within_time(self) -> Any:
        try:
            return await asyncio.wait_for(self._request.receive(), _STILL_S)
        except TimeoutError:
            raise ApiError(408, f"nothing came for {_STILL_S:g} s", "file") from None

    async def _drain(self, told: int = 0) -> None:
        more = told <= _DRAINED * self._most
        while more and self._read <= _DRAINED * self._most:
            message = await self._within_time()
            self._read += len(message.get("body", b""))
            more = message.get("more_body", False)

    def _too_large(self) -> ApiError:
        return ApiError(413, f"more than {self._most / 1e6:.4g} MB: send a shorter or a compressed recording", "file")


async def _keep(file: UploadFile, path: Path, most_bytes: int) -> None:
    """Write what was sent to a path of ours; its own name is not used."""
    if (file.size or 0) > most_bytes:
        raise ApiError(
            413, f"file: more than {most_bytes / 1e6:.4g} MB: send a shorter or a compressed recording", "file"
        )
    await run_in_threadpool(_copy, file, path)


def _copy(file: UploadFile, path: Path) -> None:
    file.file.seek(0)
    with path.open("xb") as out:
        while data := file.file.read(_COPY_BYTES):
            out.write(data)
