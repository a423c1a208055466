"""Readers of corpus layouts, one module each, found by name."""

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, cast

from pqm_plugin.corpus.names import suggest
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError


class Reader(Protocol):
    """What a module of this folder offers; see `Utterance` for how it yields data with a hole in it.

    Where a corpus may have sound that lies in no file, its reader has `read_made(corpus, set_name, sounds)`, too, which
    writes that to the folder `sounds`.
    """

    def read(self, corpus: Path, set_name: str) -> Iterator[Utterance]:
        """Yield the utterances of one set, in any order."""

    def available_sets(self, corpus: Path) -> list[str]:
        """Return the names that `read` accepts."""


def available_readers() -> list[str]:
    """Return the names of the corpus layouts that can be read."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def read_into(reader: Reader, corpus: Path, set_name: str, sounds: Path) -> Iterator[Utterance]:
    """Yield the utterances of one set; sound that lies in no file is written to the folder `sounds`."""
    made = getattr(reader, "read_made", None)
    return reader.read(corpus, set_name) if made is None else cast(Iterator[Utterance], made(corpus, set_name, sounds))


def find_reader(name: str) -> Reader:
    """Return the reader module called `name`.

    Raises:
        PqmError: if there is none, naming those there are.
    """
    known = available_readers()
    if name not in known:
        raise PqmError(
            f"corpus reader {name!r} is not known ({suggest(name, known)}): name one of them, or add "
            f"pqm_plugin/corpus/readers/{name}.py with read() and available_sets()"
        )
    return cast(Reader, importlib.import_module(f"{__name__}.{name}"))
