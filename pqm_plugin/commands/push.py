"""Put a model on the Hugging Face hub."""

import argparse

from pqm_plugin.commands.options import add_model
from pqm_plugin.commands.pack import add_contents


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_model(parser)
    parser.add_argument("repository", metavar="OWNER/NAME", help="repository; it is made if it is not there")
    add_contents(parser)
    parser.add_argument("--public", action="store_true", help="a new repository is seen by all, not by its owner alone")


def run(parsed: argparse.Namespace) -> int:
    """Push and say where it is."""
    from pqm_plugin.personal.hub import push

    print(push(parsed.model, parsed.repository, parsed.speakers, parsed.licence, public=parsed.public))
    return 0
