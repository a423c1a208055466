"""Fetch a model from the Hugging Face hub."""

import argparse
from pathlib import Path


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("repository", metavar="OWNER/NAME", help="repository; @ and a branch, tag or commit may follow")
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder of the model")


def run(parsed: argparse.Namespace) -> int:
    """Pull and say what it is."""
    from pqm_plugin.personal.facts import facts, lines
    from pqm_plugin.personal.hub import pull

    print("\n".join(lines(facts(pull(parsed.repository, parsed.out)))))
    return 0
