"""Wyoming, the protocol of Home Assistant's voice assistants: events over TCP; a speaker is a model."""

import asyncio
import logging
import socket
import wave
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import AsrModel, AsrProgram, Attribution, Describe, Info
from wyoming.server import AsyncEventHandler, AsyncServer

from pqm_plugin.api.service import BusyError, Service, UnknownModelError
from pqm_plugin.errors import PqmError
from pqm_plugin.personal.batcher import GoneError

_log = logging.getLogger(__name__)
_MAKER = Attribution(name="pqm_plugin", url="")
# A chunk is some kilobytes; what an event says beside it is less.
_MOST_EVENT_BYTES = 2**22
# A header says how much follows, in one line.
_MOST_LINE_BYTES = 2**16
_MOST_CHANNELS = 64
_RATES_HZ = (2000, 768_000)
_WIDTHS = (1, 2, 3, 4)
# Satellites keep a connection between commands; one that is silent for longer has gone.
_STILL_S = 300.0
_BROKEN = (OSError, EOFError, AttributeError, KeyError, TypeError, ValueError, RecursionError, OverflowError)
"""What a stream that is not Wyoming's raises within the library, which trusts its peers."""


class Server(AsyncServer):
    """Listens on a socket that is bound already; callers beyond twice as many as may wait are turned away."""

    def __init__(self, service: Service, listener: socket.socket) -> None:
        super().__init__()
        self._service = service
        self._listener = listener
        self._server: asyncio.Server | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Within it, callers are answered."""
        accept = partial(self._handler_callback, self._caller)
        self._server = await asyncio.start_server(accept, sock=self._listener, limit=_MOST_LINE_BYTES)
        try:
            yield
        finally:
            self._server.close()
            await self.stop()

    async def run(self, handler_factory: Any) -> None:
        """Until it is cancelled; see `running`."""
        async with self.running():
            await asyncio.Event().wait()

    def _caller(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> AsyncEventHandler:
        is_full = len(self._handlers) >= 2 * self._service.limits.n_waiting
        return _Caller(self._service, _Bounded(reader), writer, is_full=is_full)  # type: ignore[arg-type]


class _Bounded:
    """As much of a reader as the library uses, which would wait for however many bytes a header promises."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    async def readline(self) -> bytes:
        return await asyncio.wait_for(self._reader.readline(), _STILL_S)

    async def readexactly(self, n: int) -> bytes:
        if not 0 <= n <= _MOST_EVENT_BYTES:
            raise ValueError(f"an event of {n} bytes")
        return await asyncio.wait_for(self._reader.readexactly(n), _STILL_S)

    async def read(self, n: int) -> bytes:
        return await self._reader.read(n)

    def feed_eof(self) -> None:
        self._reader.feed_eof()


class _Caller(AsyncEventHandler):
    """One connection: what it wants, and the sound that came so far."""

    def __init__(self, service: Service, reader: Any, writer: asyncio.StreamWriter, *, is_full: bool) -> None:
        super().__init__(reader, writer)
        self._service = service
        self._is_full = is_full
        self._wanted = Transcribe()
        self._sound: _Sound | None = None
        self._held = AsyncExitStack()

    async def run(self) -> None:
        """Answer until the caller goes, or sends what is none of the protocol's events."""
        try:
            if self._is_full:
                await self._say(BusyError(1), "overloaded")
                self.writer.close()
                return
            await super().run()
        except _BROKEN as error:
            _log.info("a Wyoming connection ended (%s)", type(error).__name__)
        finally:
            await self._held.aclose()

    async def handle_event(self, event: Event) -> bool:
        """Answer one event; False ends the connection, as wyoming-faster-whisper does after a transcript."""
        try:
            return await self._handled(event)
        except UnknownModelError as error:
            return await self._say(error, "model_not_found")
        except BusyError as error:
            return await self._say(error, "overloaded")
        except PqmError as error:
            return await self._say(error, "invalid_request")
        except TimeoutError:
            return await self._say(PqmError("it took longer than a request may"), "timeout")
        except _BROKEN as error:
            if isinstance(error, OSError):
                raise
            return await self._say(PqmError(f"an event of type {event.type!r:.60} lacks what it needs"), "bad_event")

    async def _say(self, error: PqmError, code: str) -> bool:
        await self.write_event(Error(text=" ".join(str(error).split()), code=code).event())
        return False

    async def _handled(self, event: Event) -> bool:
        if Describe.is_type(event.type):
            await self.write_event(describe(self._service).event())
        elif Transcribe.is_type(event.type):
            self._wanted = Transcribe.from_event(event)
        elif AudioStart.is_type(event.type):
            await self._begin(AudioStart.from_event(event))
        elif AudioChunk.is_type(event.type):
            chunk = AudioChunk.from_event(event)
            # wyoming-faster-whisper needs no start, either.
            sound = self._sound or await self._begin(chunk)
            await self._service.thread(sound.add, chunk)
        elif AudioStop.is_type(event.type):
            await self._answer()
            return False
        return True

    async def _begin(self, form: Any) -> "_Sound":
        await self._held.aclose()
        self._held = AsyncExitStack()
        self._held.enter_context(self._service.place())
        limits = self._service.limits
        path = self._held.enter_context(self._service.file())
        self._sound = _Sound(path, form, limits.recording_s, limits.upload_bytes)
        self._held.callback(self._sound.close)
        return self._sound

    async def _answer(self) -> None:
        sound = self._sound
        if sound is None or not sound.n_frames:
            await self.write_event(Transcript(text="").event())
            return
        sound.close()
        speaker = self._service.speaker(self._wanted.name) if self._wanted.name else None
        call = await self._service.hear(sound.path, speaker, language=self._language())
        hearing, leaving = asyncio.ensure_future(call.transcript()), asyncio.ensure_future(self.reader.read(1))
        try:
            await asyncio.wait({hearing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not hearing.done() and not leaving.result():
                raise ConnectionResetError("the caller has gone")
            found = await hearing
        except GoneError:
            raise ConnectionResetError("the server ends") from None
        finally:
            for task in (hearing, leaving):
                task.cancel()
            await asyncio.wait({hearing, leaving})
        language = call.hearing.language
        await self.write_event(Transcript(text=found.text, language=language).event())

    def _language(self) -> str | None:
        """What the caller says of the speech, where the model can be told; assistants say it to every model."""
        return self._wanted.language or None if self._service.desk.model.languages else None


class _Sound:
    """The chunks of one recording, as a WAV file."""

    def __init__(self, path: Path, form: Any, most_s: float, most_bytes: int) -> None:
        self.path = path
        self.n_frames = 0
        self._form = _form(form)
        rate, width, n_channels = self._form
        self._frame_bytes = width * n_channels
        self._most = min(int(most_s * rate), most_bytes // self._frame_bytes)
        self._why = f"the recording lasts more than {self._most / rate:g} s, which is the most: cut it"
        self._file = wave.open(str(path), "wb")
        self._file.setparams((n_channels, width, rate, 0, "NONE", ""))

    def add(self, chunk: AudioChunk) -> None:
        """Raises `PqmError` where it is of another form than the first, or one too many."""
        if _form(chunk) != self._form:
            raise PqmError(
                f"a chunk of {_form(chunk)} among those of {self._form} (Hz, bytes, channels): keep one form"
            )
        whole = len(chunk.audio) // self._frame_bytes
        self.n_frames += whole
        if self.n_frames > self._most:
            raise PqmError(self._why)
        self._file.writeframesraw(chunk.audio[: whole * self._frame_bytes])

    def close(self) -> None:
        """Write down how long it is."""
        self._file.close()


def _form(event: Any) -> tuple[int, int, int]:
    found = (event.rate, event.width, event.channels)
    if not all(type(value) is int for value in found):
        raise PqmError(f"rate, width and channels {str(found)[:60]}: whole numbers")
    rate, width, n_channels = found
    if not (_RATES_HZ[0] <= rate <= _RATES_HZ[1] and width in _WIDTHS and 1 <= n_channels <= _MOST_CHANNELS):
        raise PqmError(f"{str(found)[:60]}: a rate of 2000 to 768000 Hz, samples of 1 to 4 bytes, 1 to 64 channels")
    return found


def describe(service: Service) -> Info:
    """What this server offers: one program, its models the speakers, the first of them for anyone."""
    languages = list(service.desk.model.languages) or [service.desk.model.language]
    models = [
        AsrModel(
            name=each.name,
            description=f"{each.name}, a speaker of {each.parent}" if each.parent else f"{each.name}, for anyone",
            attribution=_MAKER,
            installed=True,
            version=None,
            languages=languages,
        )
        for each in service.models()
    ]
    program = AsrProgram(
        name="pqm",
        description="a recogniser that knows its speakers",
        attribution=_MAKER,
        installed=True,
        version=None,
        models=models,
    )
    return Info(asr=[program])
