"""The command `pqm serve`."""

import argparse
import os
from pathlib import Path

from pqm_plugin.commands.options import add_computing, add_language, add_model, set_threads
from pqm_plugin.errors import PqmError

_SHORTEST_KEY = 8


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_model(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; default: 127.0.0.1, which only this machine reaches"
    )
    parser.add_argument("--port", type=int, default=7860, help="0 takes a free one")
    parser.add_argument("--sentences", type=Path, metavar="FILE", help="to read aloud, one a line; default: English")
    parser.add_argument("--max_upload", "--max-upload", type=float, default=50, metavar="MB", help="largest file (50)")
    parser.add_argument(
        "--max_minutes", "--max-minutes", type=float, default=10, metavar="N", help="longest recording (10)"
    )
    parser.add_argument(
        "--api", action="store_true", help="answer clients of OpenAI's transcription API, too, at http://HOST:PORT/v1"
    )
    parser.add_argument(
        "--wyoming", metavar="ADDRESS", help="answer voice assistants, too, at tcp://HOST:PORT, such as 127.0.0.1:10300"
    )
    parser.add_argument(
        "--api_key",
        "--api-key",
        metavar="KEY",
        help="what page and API ask everybody for; default: the environment's PQM_API_KEY, or nothing. --api at an "
        "address that others reach wants one",
    )
    parser.add_argument(
        "--no_enroll", "--no-enroll", action="store_true", help="the API enrols nobody and has nobody forgotten"
    )
    parser.add_argument(
        "--max_queue", "--max-queue", type=int, default=64, metavar="N", help="requests of the API held at once (64)"
    )
    add_language(parser)
    add_computing(parser)


def run(parsed: argparse.Namespace) -> int:
    """Show a page in the browser: record, compare, enrol; for this machine alone unless told otherwise."""
    from contextlib import ExitStack

    from pqm_plugin.page.guard import Limits, is_loopback
    from pqm_plugin.page.server import serve
    from pqm_plugin.personal.folder import ModelFolder

    # What can be wrong with the folder is said before anything heavy is loaded.
    ModelFolder.of(parsed.model)
    key = parsed.api_key if parsed.api_key is not None else os.environ.get("PQM_API_KEY")
    if key is not None and (len(key) < _SHORTEST_KEY or not key.isascii() or not key.isprintable()):
        raise PqmError(f"--api_key: at least {_SHORTEST_KEY} printable ASCII characters")
    if parsed.api and key is None and not is_loopback(parsed.host):
        raise PqmError(f"--api at {parsed.host}, which others reach: give a key, --api_key KEY or PQM_API_KEY")
    limits = Limits(
        upload_bytes=int(parsed.max_upload * 1e6), recording_s=60 * parsed.max_minutes, n_waiting=parsed.max_queue
    )
    with ExitStack() as stack:
        others = None
        if parsed.api or parsed.wyoming:
            from pqm_plugin.api.service import ApiOptions, beside

            others = stack.enter_context(beside(ApiOptions(parsed.api, parsed.wyoming, not parsed.no_enroll)))
        set_threads(parsed.threads)
        serve(
            parsed.model,
            parsed.host,
            parsed.port,
            device=parsed.device,
            sentences=parsed.sentences,
            limits=limits,
            language=parsed.language,
            key=key,
            others=others,
        )
    return 0
