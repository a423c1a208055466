"""The command line `pqm`, also `python -m pqm_plugin.commands`; nothing heavy is imported before a command needs it."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from pqm_plugin.commands import (
    adopt,
    check,
    enroll,
    info,
    pack,
    pull,
    push,
    quantize,
    serve,
    speakers,
    transcribe,
    unpack,
)
from pqm_plugin.errors import PqmError
from pqm_plugin.files import refusal_as_error
from pqm_plugin.processes import share_cores, start_log, tolerant_output

_COMMANDS = {
    module.__name__.rpartition(".")[2]: module
    for module in (quantize, enroll, adopt, transcribe, serve, speakers, info, check, pack, unpack, push, pull)
}
_EPILOG = """The stages of a recipe are `python -m pqm_plugin STAGE`, or egs/*/run.sh; what they leave in
exp/<base>_nf4 is a MODEL here."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 if it ended well, 1 for what the user can mend (one line says it), 2 for a wrong call."""
    start_log()
    tolerant_output()
    parsed = _parser().parse_args(arguments)
    share_cores()
    if parsed.quiet:
        logging.getLogger().setLevel(logging.WARNING)
    try:
        # What has no other name when the system refuses it is what is printed.
        with refusal_as_error("standard output"):
            status = int(_COMMANDS[parsed.command].run(parsed))
            sys.stdout.flush()
            return status
    except PqmError as error:
        print(f"pqm {parsed.command}: {error}", file=sys.stderr)
        _forget_output()
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
    for name, module in _COMMANDS.items():
        text = (module.__doc__ or "").splitlines()[0].rstrip(".")
        one = commands.add_parser(name, help=text, description=text + ".")
        one.add_argument("--quiet", action="store_true", help="log warnings alone")
        module.add(one)
    return parser


def _version() -> str:
    from pqm_plugin import __version__

    return f"pqm {__version__}"


if __name__ == "__main__":
    sys.exit(main())
