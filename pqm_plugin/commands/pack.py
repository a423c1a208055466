"""Put a model and its adapters into one file to hand on."""

import argparse
from pathlib import Path

from pqm_plugin.commands.options import add_model


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_model(parser)
    parser.add_argument("out", type=Path, metavar="PACK", help="file to write, such as my_model.pqm")
    add_contents(parser)


def add_contents(parser: argparse.ArgumentParser) -> None:
    """What goes along with the base."""
    parser.add_argument(
        "--speakers",
        nargs="*",
        default=None,
        metavar="NAME",
        help="whose adapters go along; default: all; none: no name",
    )
    parser.add_argument("--licence", default="", help="licence of the base, where the model does not say it")


def run(parsed: argparse.Namespace) -> int:
    """Write the pack and say what is in it."""
    from pqm_plugin.personal.packing import pack

    manifest = pack(parsed.model, parsed.out, parsed.speakers, parsed.licence)
    print(f"{parsed.out}: {len(manifest.files)} files, {parsed.out.stat().st_size / 1e6:.2f} MB")
    return 0
