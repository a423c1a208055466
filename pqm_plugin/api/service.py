"""What both protocols share: models and speakers, limits on requests, transcription; and how both are run."""

import asyncio
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pqm_plugin.adapters.options import WEIGHTS
from pqm_plugin.corpus.names import suggest
from pqm_plugin.errors import PqmError
from pqm_plugin.page.desk import Desk, check_length
from pqm_plugin.page.guard import Limits, is_loopback
from pqm_plugin.page.server import listener
from pqm_plugin.personal.batcher import Batcher, GoneError
from pqm_plugin.personal.enrollment import forget
from pqm_plugin.personal.folder import is_adapter
from pqm_plugin.personal.model import Hearing
from pqm_plugin.personal.transcript import LONGEST_S, Segment, Transcript

UPLOAD = "the recording"
"""What errors call a file that was sent: its path is ours, and its name its sender's."""
_MOST_ENROLLING = 4
_WAIT_S = (1, 60)


class UnknownModelError(PqmError):
    """No speaker, and not the model, has this name."""


class BusyError(PqmError):
    """As many requests wait as may; `wait_s` is a guess of when another is taken."""

    def __init__(self, wait_s: int) -> None:
        super().__init__(f"too many requests wait already: try again in {wait_s} s")
        self.wait_s = wait_s


@dataclass(frozen=True)
class Model:
    """A name that a request can give as its model; `parent` is the model that a speaker's adapter is for, or None."""

    name: str
    parent: str | None
    created: int


class Service:
    """One model for callers at the same time, over whichever protocol."""

    def __init__(self, desk: Desk, scratch: Path, *, may_enroll: bool = True) -> None:
        """Serve the desk's model.

        Args:
            scratch: where recordings lie while they are transcribed; a folder that nobody else can read.
            may_enroll: whether callers may enrol speakers and have them forgotten.
        """
        self.desk = desk
        self.may_enroll = may_enroll
        self._model = desk.model
        self._scratch = scratch
        self._threads = ThreadPoolExecutor(desk.limits.n_waiting, "pqm call")
        self.learners = ThreadPoolExecutor(_MOST_ENROLLING, "pqm enrol")
        self._n_held = {"hear": 0, "enroll": 0}
        self._took_s = 1.0

    @property
    def limits(self) -> Limits:
        """How much is taken in."""
        return self.desk.limits

    @property
    def name(self) -> str:
        """Of the model: its folder's."""
        return self.desk.folder.path.resolve().name or "model"

    @property
    def batches(self) -> Batcher:
        """Where pieces of all callers are computed."""
        return self.desk.batches

    def models(self) -> list[Model]:
        """The model, then its speakers by name, each with the name to ask for it."""
        folder = self.desk.folder
        base = Model(self.name, None, _changed(folder.packed))
        return [base, *(self._of(name) for name in folder.speakers())]

    def _of(self, speaker: str) -> Model:
        own = f"{self.name}/{speaker}" if speaker == self.name else speaker
        return Model(own, self.name, _changed(self.desk.folder.speaker(speaker) / WEIGHTS))

    def model(self, asked: str) -> Model:
        """That which `asked` names.

        Raises:
            UnknownModelError: if there is none.
        """
        speaker = self.speaker(asked)
        return self.models()[0] if speaker is None else self._of(speaker)

    def speaker(self, asked: str) -> str | None:
        """The speaker whom `ada` or `my_model/ada` names; None for `my_model`, which is anyone.

        Raises:
            UnknownModelError: if the speaker is not enrolled, or the model is another.
        """
        if asked == self.name:
            return None
        speaker = asked.removeprefix(f"{self.name}/")
        if not self.knows(speaker):
            near = suggest(speaker[:100], [self.name, *self.desk.folder.speakers()])
            raise UnknownModelError(f"there is no model {asked[:100]!r} ({near}); a speaker is a model")
        return speaker

    def knows(self, speaker: str) -> bool:
        """Whether a speaker of this name is enrolled; a name that can be no speaker's is nobody's."""
        try:
            return is_adapter(self.desk.folder.speaker(speaker))
        except PqmError:
            return False

    @contextmanager
    def place(self, what: str = "hear") -> Iterator[None]:
        """A place among the callers that are held at once; to be taken in one thread, the server's.

        Raises:
            BusyError: if all are taken.
        """
        most = self.limits.n_waiting if what == "hear" else _MOST_ENROLLING
        if self._n_held[what] >= most:
            raise BusyError(min(max(_WAIT_S[0], round(self._took_s)), _WAIT_S[1]))
        self._n_held[what] += 1
        start = time.monotonic()
        try:
            yield
        finally:
            self._n_held[what] -= 1
            # The last calls count most.
            self._took_s += 0.2 * (time.monotonic() - start - self._took_s)

    @contextmanager
    def file(self) -> Iterator[Path]:
        """A path that is nobody else's, for a recording; what is there goes at the end."""
        path = self._scratch / f"call_{secrets.token_hex(8)}"
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    async def thread[T](self, work: Callable[..., T], *arguments: object) -> T:
        """What `work` gives, computed beside the server's own thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    async def hear(self, path: Path, speaker: str | None, form: str = "text", language: str | None = None) -> "Call":
        """Begin to transcribe a recording as `pqm transcribe` does.

        Args:
            form: of the transcript, a key of `LONGEST_S`.
            language: see `PersonalModel.transcribe`.

        Raises:
            PqmError: if it is too long, cannot be read, or the language is not known.
        """
        gone = threading.Event()

        def begin() -> Hearing:
            try:
                check_length(path, self.limits.recording_s)
                return self._model.hear(
                    path,
                    speaker,
                    longest_s=LONGEST_S[form],
                    language=language,
                    most_s=self.limits.recording_s,
                    search=self.batches.searching(gone),
                )
            except PqmError as error:
                raise unplaced(error, path) from None

        return Call(self, path, await self.thread(begin), gone)

    def forget(self, speaker: str) -> None:
        """Remove a speaker.

        Raises:
            PqmError: see `personal.enrollment.forget`.
        """
        forget(self.desk.folder, speaker)

    def close(self) -> None:
        """End transcriptions and enrolments that run."""
        self.desk.close()
        self._threads.shutdown(wait=True, cancel_futures=True)
        self.learners.shutdown(wait=True, cancel_futures=True)


class Call:
    """One recording that is being transcribed."""

    def __init__(self, service: Service, path: Path, hearing: Hearing, gone: threading.Event) -> None:
        self._service = service
        self._path = path
        self.hearing = hearing
        self._gone = gone

    async def segments(self) -> AsyncGenerator[Segment]:
        """The segments as they are found; to stop asking for them stops the computing, too.

        Raises:
            PqmError: if the recording turns out to be damaged or too long.
            TimeoutError: if it takes longer than a request may.
        """
        found, end = iter(self.hearing), time.monotonic() + self._service.limits.request_s
        try:
            while (segment := await self._next(found, end)) is not None:
                yield segment
        except PqmError as error:
            raise unplaced(error, self._path) from None
        except GoneError:
            raise TimeoutError from None
        finally:
            self._gone.set()
            self._service.batches.wake()

    async def _next(self, found: Iterator[Segment], end: float) -> Segment | None:
        return await asyncio.wait_for(self._service.thread(next, found, None), end - time.monotonic())

    async def transcript(self) -> Transcript:
        """All of it; errors as `segments`."""
        segments = tuple([segment async for segment in self.segments()])
        hearing = self.hearing
        return Transcript("", hearing.adapter, hearing.heard_s, segments, hearing.found_language)


def unplaced(error: PqmError, path: Path) -> PqmError:
    """The error without our folder: its reader knows nothing of it."""
    return PqmError(str(error).replace(str(path), UPLOAD).replace(path.name, UPLOAD))


def _changed(path: Path) -> int:
    """When a file was written, in whole seconds since 1970; 0 where it is gone."""
    try:
        return int(path.stat().st_mtime)
    except OSError:
        return 0


_log = logging.getLogger(__name__)
V1 = "/v1"


@dataclass(frozen=True)
class ApiOptions:
    """What is served: OpenAI's API over HTTP, Wyoming at an address (`tcp://HOST:PORT`), or both."""

    http: bool = True
    wyoming: str | None = None
    may_enroll: bool = True


class Beside:
    """One service over the protocols that are asked for."""

    def __init__(self, options: ApiOptions, wyoming: socket.socket | None) -> None:
        self._options = options
        self._wyoming = wyoming
        self._service: Service | None = None

    def lines(self, page: str) -> list[str]:
        """What to say when it can be reached; `page` is the page's own address."""
        said = [f"The API is at {page.rstrip('/')}{V1}"] if self._options.http else []
        if self._wyoming is not None:
            host, port = self._wyoming.getsockname()[:2]
            said.append(f"Wyoming is at tcp://{host}:{port}")
        return said

    def mount(self, application: Any, desk: Desk) -> None:
        """Add the addresses to an application, before the page, which takes all that are left."""
        self._service = Service(desk, Path(os.environ["GRADIO_TEMP_DIR"]), may_enroll=self._options.may_enroll)
        if self._options.http:
            from pqm_plugin.api.app import build

            application.mount(V1, build(self._service))

    @asynccontextmanager
    async def running(self, _: Any) -> AsyncIterator[None]:
        """The life of the server, as an application's lifespan."""
        if self._service is None:
            raise RuntimeError("mount comes first")
        async with AsyncExitStack() as stack:
            stack.callback(self._service.close)
            if self._wyoming is not None:
                from pqm_plugin.api.wyoming import Server

                await stack.enter_async_context(Server(self._service, self._wyoming).running())
            yield


@contextmanager
def beside(options: ApiOptions) -> Iterator[Beside]:
    """What is asked for, its address taken before anything slow is done.

    Raises:
        PqmError: if the address of Wyoming cannot be had, or its package is missing.
    """
    with ExitStack() as stack:
        bound = stack.enter_context(_wyoming(options.wyoming)) if options.wyoming else None
        yield Beside(options, bound)


@contextmanager
def _wyoming(address: str) -> Iterator[socket.socket]:
    try:
        import wyoming  # noqa: F401
    except ImportError as error:
        raise PqmError(f"--wyoming needs a package ({error}): pip install 'pqm_plugin[wyoming]'") from error
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if parts.scheme != "tcp" or not host or port is None or parts.path.strip("/"):
        raise PqmError(f"--wyoming {address}: write tcp://HOST:PORT, such as tcp://127.0.0.1:10300")
    with listener(host, port, "--wyoming tcp://HOST:PORT") as found:
        if not is_loopback(host):
            _log.warning(
                "anyone who reaches %s can have speech transcribed and sees the speakers' names: Wyoming has no keys, "
                "and audio and text are sent unencrypted",
                address,
            )
        yield found
