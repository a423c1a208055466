"""The command line `pqm`, also `python -m pqm_plugin.commands`; heavy libraries are imported on use."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from pqm_plugin.commands import listen, models, serve, speakers, transcribe
from pqm_plugin.errors import PqmError
from pqm_plugin.files import refusal_as_error
from pqm_plugin.imports import extra_for
from pqm_plugin.processes import share_cores, start_log, tolerant_output

_COMMANDS = {
    "quantize": (models.add_quantize, models.run_quantize),
    "enroll": (speakers.add_enroll, speakers.run_enroll),
    "adopt": (speakers.add_adopt, speakers.run_adopt),
    "export": (speakers.add_export, speakers.run_export),
    "transcribe": (transcribe.add, transcribe.run),
    "listen": (listen.add, listen.run),
    "words": (speakers.add_words, speakers.run_words),
    "serve": (serve.add, serve.run),
    "speakers": (speakers.add_speakers, speakers.run_speakers),
    "info": (models.add_info, models.run_info),
    "check": (models.add_check, models.run_check),
    "doctor": (models.add_doctor, models.run_doctor),
    "pack": (models.add_pack, models.run_pack),
    "unpack": (models.add_unpack, models.run_unpack),
    "push": (models.add_push, models.run_push),
    "pull": (models.add_pull, models.run_pull),
}
"""By name: what declares its options, and what runs it; the docstring of the latter is its help."""
_EPILOG = """The stages of a recipe are `python -m pqm_plugin STAGE`, or egs/*/run.sh; what they leave in
exp/<base>_nf4 is a MODEL here."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 if it ended well, 1 for what the user can correct (one line says it), 2 for a wrong call."""
    start_log()
    tolerant_output()
    parsed = _parser().parse_args(arguments)
    share_cores()
    if parsed.quiet:
        logging.getLogger().setLevel(logging.WARNING)
    try:
        # What has no other name when the system refuses it is what is printed.
        with refusal_as_error("standard output"):
            status = _COMMANDS[parsed.command][1](parsed)
            sys.stdout.flush()
            return status
    except PqmError as error:
        print(f"pqm {parsed.command}: {error}", file=sys.stderr)
        _forget_output()
        return 1
    except ModuleNotFoundError as error:
        if not (remedy := extra_for(error)):
            raise
        print(f"pqm {parsed.command}: this needs {error.name}, which is not installed: {remedy}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"pqm {parsed.command}: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever reads our output has had enough of it, as `head` has.
        _forget_output()
        return 0


def _forget_output() -> None:
    """Let go of what standard output did not take: Python would complain of it at its end, with a status of its own."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pqm",
        description="Small speech recognisers that know their speaker.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (add, run) in _COMMANDS.items():
        text = (run.__doc__ or "").splitlines()[0].rstrip(".")
        one = commands.add_parser(name, help=text, description=text + ".")
        one.add_argument("--quiet", action="store_true", help="log warnings alone")
        add(one)
    return parser


def _version() -> str:
    from pqm_plugin import __version__

    return f"pqm {__version__}"


if __name__ == "__main__":
    sys.exit(main())
