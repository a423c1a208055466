#!/usr/bin/env python3
"""Fetch from OpenSLR the sets of LibriSpeech that a recipe names and that are not there yet.

The recipe calls it in stage 1 where no --corpus is given. A transfer that was cut off goes on where it was.
PQM_OPENSLR names a mirror of https://www.openslr.org/resources.
"""

import argparse
import sys
from pathlib import Path

from pqm_plugin.corpus.download import Archive, fetch
from pqm_plugin.corpus.names import suggest
from pqm_plugin.corpus.readers.librispeech import UNIONS
from pqm_plugin.errors import PqmError
from pqm_plugin.processes import start_log

# Resource of OpenSLR, and MD5 as its md5sum.txt has it; 31 is mini LibriSpeech.
SETS = {
    "dev-clean": ("12", "42e2234ba48799c1f50f24a7926300a1"),
    "dev-other": ("12", "c8d0bcc9cca99d4f8b62fcc847357931"),
    "test-clean": ("12", "32fa31d27d2e1cad72775fee3f4849a9"),
    "test-other": ("12", "fb5a50374b501bb3bac4815ee91d3135"),
    "train-clean-100": ("12", "2a93770f6d5c6c964bc36631d331a522"),
    "train-clean-360": ("12", "c0e676e450a7ff2f54aeade5171606fa"),
    "train-other-500": ("12", "d1a0fd59409feb2c614ce4d30c387708"),
    "dev-clean-2": ("31", "6d7ab67ac6a1d2c993d050e16d61080d"),
    "train-clean-5": ("31", "5df7d4e78065366204ca6845bb08f490"),
}
ROLES = ("target_set", "sat_sets", "train_set", "valid_set", "check_set")


def archive(name: str) -> Archive:
    """Where a set is published.

    Raises:
        PqmError: if it is not.
    """
    if name not in SETS:
        raise PqmError(f"set {name!r} is not published ({suggest(name, SETS)}): name one that is, or give --corpus")
    resource, md5 = SETS[name]
    return Archive(f"{resource}/{name}.tar.gz", f"md5:{md5}", f"LibriSpeech/{name}")


def main() -> int:
    """Fetch the sets of all roles; options that are the recipe's other ones are left to it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("out", type=Path, help="folder that LibriSpeech/SET is written to")
    for role in ROLES:
        parser.add_argument(f"--{role}", f"--{role.replace('_', '-')}", dest=role, default="", metavar="SET")
    parsed, _ = parser.parse_known_args()
    start_log()
    named = [name for role in ROLES for name in getattr(parsed, role).replace(",", " ").split()]
    sets = [part for name in named for part in UNIONS.get(name, (name,))]
    try:
        for found in [archive(name) for name in dict.fromkeys(sets)]:
            print(f"{fetch(found, parsed.out)} is there", flush=True)
    except PqmError as error:
        print(f"download: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
