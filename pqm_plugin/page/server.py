"""Serve the page until it is interrupted; nothing of it is left behind but adapters."""

import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pqm_plugin.errors import PqmError
from pqm_plugin.page.guard import Guard, is_loopback
from pqm_plugin.page.limits import Limits
from pqm_plugin.page.sentences import read_sentences

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
) -> None:
    """Open the model and answer at `http://HOST:PORT/` until SIGINT or SIGTERM.

    Args:
        port: 0 takes a free one; the line that is printed when the page is ready names it.
        sentences: to read aloud, see `sentences.read_sentences`.
        language: of the speech, see `PersonalModel`.

    Raises:
        PqmError: if gradio is missing, the address cannot be had, or the model cannot be opened.
    """
    script = read_sentences(sentences)
    with _listener(host, port) as listener, _uploads():
        _quiet_gradio()
        from pqm_plugin.page.desk import Desk
        from pqm_plugin.personal.model import PersonalModel

        desk = Desk(PersonalModel(model, device=device, language=language), limits or Limits())
        application = Guard(_application(desk, script), local=is_loopback(host))
        if not is_loopback(host):
            _log.warning(
                "whoever reaches %s:%d may use the page, and enrol; browsers give it no microphone", host, port
            )
        try:
            _run(application, listener)
        finally:
            desk.stop_all()


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


def _application(desk: Any, sentences: tuple[str, ...]) -> Any:
    import gradio as gr
    from fastapi import FastAPI

    from pqm_plugin.page.events import Events
    from pqm_plugin.page.layout import build

    page = build(Events(desk, sentences), _KEEP_UPLOADS_S)
    return gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
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
def _listener(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens, before anything slow is done.

    Raises:
        PqmError: if the address is not known, not ours, or taken.
    """
    try:
        if not 0 <= port < 2**16:
            # The look-up would take it modulo 2^16, and we would listen where nobody looks.
            raise OverflowError("ports are from 0 to 65535")
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address[:2], family=family)
    except (OSError, OverflowError) as error:
        raise PqmError(f"{host}:{port}: {error}: choose another --host or --port; --port 0 takes a free one") from error
    with listener:
        yield listener


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


def _run(application: Any, listener: socket.socket) -> None:
    import uvicorn

    host, port = listener.getsockname()[:2]
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
    print(f"The page is at http://{shown}:{port}/ and ends with Ctrl-C", flush=True)
    server.run(sockets=[listener])
