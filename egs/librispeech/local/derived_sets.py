"""Sets of LibriSpeech that are made from others: what every maker of them reads and copies."""

import shutil
from pathlib import Path

from pqm_plugin.errors import PqmError

_TABLES = ("SPEAKERS.TXT", "CHAPTERS.TXT", "LICENSE.TXT", "README.TXT")


def audio_of(corpus: Path, set_name: str) -> list[Path]:
    """The recordings of a set, sorted.

    Raises:
        PqmError: if the corpus has no such set.
    """
    source = corpus / set_name
    if files := sorted(source.rglob("*.flac")):
        return files
    raise PqmError(f"{source} holds no .flac: give the LibriSpeech folder with --corpus, and its sets with --sets")


def copy_tables(corpus: Path, out: Path) -> None:
    """What lies beside the sets: readers, chapters, licence."""
    for name in _TABLES:
        if (corpus / name).is_file():
            shutil.copyfile(corpus / name, out / name)
