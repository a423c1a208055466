"""What `pqm serve` has beside its page: the addresses of the API, and a listener for Wyoming."""

import logging
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pqm_plugin.api.service import Service
from pqm_plugin.errors import PqmError
from pqm_plugin.page.desk import Desk
from pqm_plugin.page.guard import is_loopback
from pqm_plugin.page.server import listener

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
                "whoever reaches %s may have speech written down and sees the speakers' names: Wyoming knows no keys, "
                "and sound and words go unencrypted",
                address,
            )
        yield found
