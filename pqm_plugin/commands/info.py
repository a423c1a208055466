"""Say what a model is: sizes, bits, hashes, licence, measured error rates."""

import argparse
import sys

from pqm_plugin.commands.options import add_model


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_model(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(parsed: argparse.Namespace) -> int:
    """Print the facts."""
    from pqm_plugin.files import json_text
    from pqm_plugin.personal.facts import facts, lines
    from pqm_plugin.personal.folder import ModelFolder

    found = facts(ModelFolder.of(parsed.model))
    print(json_text(found, 2, sys.stdout.encoding) if parsed.json else "\n".join(lines(found)))
    return 0
