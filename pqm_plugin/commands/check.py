"""Check every file of a model or of a pack, and name every problem."""

import argparse
from pathlib import Path


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("folder", type=Path, metavar="MODEL", help="folder of a model, or a pack")


def run(parsed: argparse.Namespace) -> int:
    """Print each problem on a line; 1 if there is any."""
    from pqm_plugin.personal.check import problems

    found = problems(parsed.folder)
    for problem in found:
        print(problem)
    print(f"{parsed.folder}: {len(found)} problems")
    return 1 if found else 0
