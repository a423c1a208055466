"""Show a page in the browser: record, compare, teach a voice; for this machine alone unless told otherwise."""

import argparse
from pathlib import Path

from pqm_plugin.commands.options import add_computing, add_language, add_model, set_threads


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
        "--max_minutes", "--max-minutes", type=float, default=10, metavar="N", help="longest recording heard (10)"
    )
    add_language(parser)
    add_computing(parser)


def run(parsed: argparse.Namespace) -> int:
    """Serve until interrupted."""
    from pqm_plugin.page.limits import Limits
    from pqm_plugin.page.server import serve
    from pqm_plugin.personal.folder import ModelFolder

    # What can be wrong with the folder is said before anything heavy is loaded.
    ModelFolder.of(parsed.model)
    limits = Limits(upload_bytes=int(parsed.max_upload * 1e6), recording_s=60 * parsed.max_minutes)
    set_threads(parsed.threads)
    options = {"device": parsed.device, "sentences": parsed.sentences, "limits": limits, "language": parsed.language}
    serve(parsed.model, parsed.host, parsed.port, **options)
    return 0
