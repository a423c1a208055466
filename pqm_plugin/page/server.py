"""Run the page until it is interrupted; only adapters stay on disk."""

import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from pqm_plugin.errors import PqmError
from pqm_plugin.page.guard import Guard, Limits, is_loopback
from pqm_plugin.page.script import read_sentences

_log = logging.getLogger(__name__)
_CSS = Path(__file__).with_name("page.css")
# Long enough for a slow reader of twenty sentences.
_KEEP_UPLOADS_S = 2 * 3600
_LAST_ANSWERS_S = 3


def serve(
    model: str | Path,
    host: str,
    port: int,
    *,
    device: str = "cpu",
    sentences: Path | None = None,
    limits: Limits | None = None,
    language: str | None = None,
    key: str | None = None,
    others: "Others | None" = None,
) -> None:
    """Open the model and answer at `http://HOST:PORT/` until SIGINT or SIGTERM.

    Args:
        port: 0 takes a free one; the line that is printed when the page is ready names it.
        sentences: to read aloud, see `sentences.read_sentences`.
        language: of the speech, see `PersonalModel`.
        key: what every request must show, as a bearer's token or a password; None: nothing.
        others: what is served beside the page, with the same model.

    Raises:
        PqmError: if gradio is missing, the address cannot be had, or the model cannot be opened.
    """
    script = read_sentences(sentences)
    with listener(host, port) as bound, _uploads():
        _quiet_gradio()
        from pqm_plugin.page.desk import Desk
        from pqm_plugin.personal.model import PersonalModel

        desk = Desk(PersonalModel(model, device=device, language=language), limits or Limits())
        application = Guard(_application(desk, script, others), local=is_loopback(host), key=key)
        if not is_loopback(host):
            _log.warning(
                "anyone who reaches %s:%d%s can use the page, and enrol; browsers give it no microphone; what is sent, "
                "%s, goes unencrypted: put a proxy with HTTPS in front",
                host,
                port,
                " and has the key" if key else "",
                "the key, sound and words" if key else "sound and words",
            )
        try:
            _run(application, bound, others)
        finally:
            desk.close()


class Others(Protocol):
    """What is served beside the page."""

    def mount(self, application: Any, desk: Any) -> None:
        """Add its addresses to a FastAPI application; the page takes all that are left."""

    def running(self, application: Any) -> AbstractAsyncContextManager[None]:
        """Within it, it is served: an application's lifespan."""

    def lines(self, page: str) -> list[str]:
        """What to say when it can be reached; `page` is the page's own address."""


def _quiet_gradio() -> None:
    """Import gradio, without its statistics; where it keeps files is decided before, see `_uploads`.

    Raises:
        PqmError: if it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise PqmError(f"the page needs gradio ({error}): pip install 'pqm_plugin[serve]'") from error


def _application(desk: Any, sentences: tuple[str, ...], others: Others | None) -> Any:
    import gradio as gr
    from fastapi import FastAPI

    from pqm_plugin.page.events import Events
    from pqm_plugin.page.layout import build

    page = build(Events(desk, sentences), _KEEP_UPLOADS_S)
    lifespan = others.running if others is not None else None
    application = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    if others is not None:
        others.mount(application, desk)
    return gr.mount_gradio_app(
        application,
        page,
        path="/",
        max_file_size=desk.limits.upload_bytes,
        css_paths=[_CSS],
        theme=_theme(gr),
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
    )


def _theme(gr: Any) -> Any:
    """Fonts of the reader's own machine, and dark colours on light ones."""
    theme = gr.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["monospace"])
    return theme.set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        body_text_color_subdued="*neutral_600",
        block_label_text_color="*neutral_700",
    )


@contextmanager
def listener(host: str, port: int, options: str = "--host or --port") -> Iterator[socket.socket]:
    """A socket that listens, before anything slow is done; `options` are what chooses another address.

    Raises:
        PqmError: if the address is not known, not ours, or taken.
    """
    try:
        if not 0 <= port < 2**16:
            # The look-up would take it modulo 2^16, and we would listen where nobody looks.
            raise OverflowError("ports are from 0 to 65535")
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        bound = socket.create_server(address[:2], family=family)
    except (OSError, OverflowError) as error:
        raise PqmError(f"{host}:{port}: {error}: choose another {options}; port 0 takes a free one") from error
    with bound:
        yield bound


@contextmanager
def _uploads() -> Iterator[None]:
    """Within it, what browsers send lies in a folder that nobody else can read, and that goes with us."""

    def leave(number: int, _: Any) -> None:
        sys.exit(128 + number)

    # Without a handler, SIGTERM would end us before the folder is removed.
    before = signal.signal(signal.SIGTERM, leave)
    try:
        with tempfile.TemporaryDirectory(prefix="pqm_page_", ignore_cleanup_errors=True) as folder:
            os.environ["GRADIO_TEMP_DIR"] = folder
            yield
    finally:
        os.environ.pop("GRADIO_TEMP_DIR", None)
        signal.signal(signal.SIGTERM, before)


def _run(application: Any, bound: socket.socket, others: Others | None) -> None:
    import uvicorn

    host, port = bound.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    config = uvicorn.Config(
        application,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_LAST_ANSWERS_S,
    )
    server = uvicorn.Server(config)
    address = f"http://{shown}:{port}/"
    print(f"The page is at {address} and ends with Ctrl-C", flush=True)
    for line in others.lines(address) if others is not None else ():
        print(line, flush=True)
    server.run(sockets=[bound])
