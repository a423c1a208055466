"""Take a model out of a pack, if it is whole."""

import argparse
from pathlib import Path


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("pack", type=Path, metavar="PACK", help="file that `pqm pack` wrote")
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder of the model")


def run(parsed: argparse.Namespace) -> int:
    """Unpack and say what it is."""
    from pqm_plugin.personal.facts import facts, lines
    from pqm_plugin.personal.unpacking import unpack

    print("\n".join(lines(facts(unpack(parsed.pack, parsed.out)))))
    return 0
