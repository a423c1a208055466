"""LibriSpeech as distributed: `SET/READER/CHAPTER/{*.flac,READER-CHAPTER.trans.txt}`."""

import os
from collections.abc import Iterator
from pathlib import Path

from pqm_plugin.corpus.names import nfc, suggest
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError
from pqm_plugin.files import decode_text

UNIONS = {
    "train-960": ("train-clean-100", "train-clean-360", "train-other-500"),
    "train-600": ("train-clean-100", "train-other-500"),
    "dev": ("dev-clean", "dev-other"),
}
"""Names for several sets together, to train and validate on; no folder has them."""
_TRANSCRIPTS = "*.trans.txt"


def read(corpus: Path, set_name: str) -> Iterator[Utterance]:
    """Yield the utterances of one set; the speaker is the reader, the first field of the utterance's name.

    A name of `UNIONS` stands for several sets, unless there is a folder of that name.

    Raises:
        PqmError: if the set is not there, has neither audio nor transcripts, or names an utterance twice.
    """
    folder = _root(corpus) / set_name
    if set_name in UNIONS and not folder.is_dir():
        for part in UNIONS[set_name]:
            yield from read(corpus, part)
        return
    if not folder.is_dir():
        there = suggest(set_name, available_sets(corpus))
        raise PqmError(f"{folder} is missing ({there}): name one of the sets, or check --corpus")
    texts, audio = _texts(folder), _audio(folder)
    if not texts and not audio:
        raise PqmError(f"{folder} is empty: expected READER/CHAPTER/*.flac and *.trans.txt in it")
    books = _books(_root(corpus))
    for name in sorted(texts.keys() | audio.keys()):
        reader, chapter = [*name.split("-"), ""][:2]
        source = books.get(chapter, f"chapter {chapter}" if chapter else "")
        yield Utterance(name, reader, texts.get(name, ""), audio.get(name, ""), source=source)


def available_sets(corpus: Path) -> list[str]:
    """Return the sets of the corpus, by name.

    Raises:
        PqmError: if `corpus` is not a folder.
    """
    root = _root(corpus)
    return sorted(folder.name for folder in root.iterdir() if any(folder.glob(f"*/*/{_TRANSCRIPTS}")))


def _root(corpus: Path) -> Path:
    """Return the absolute folder that holds the sets: the archives unpack into `LibriSpeech/`."""
    folder = Path(os.path.abspath(corpus))
    if not folder.is_dir():
        raise PqmError(f"{folder} is not a folder: give the LibriSpeech folder with --corpus")
    inner = folder / "LibriSpeech"
    return inner if inner.is_dir() else folder


def _books(root: Path) -> dict[str, str]:
    """Map each chapter to its book, as far as CHAPTERS.TXT tells; the sixth of its columns names the book."""
    table = root / "CHAPTERS.TXT"
    lines = table.read_text(encoding="utf-8-sig", errors="replace").splitlines() if table.is_file() else []
    rows = [[field.strip() for field in line.split("|")] for line in lines if not line.startswith(";")]
    return {row[0]: f"book {row[5]}" for row in rows if len(row) > 5 and row[5]}


def _audio(folder: Path) -> dict[str, str]:
    """Map each utterance to its file."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*.flac")):
        if path.name.startswith("."):  # the leavings of some copying tools, never speech
            continue
        name = nfc(path.stem)
        if name in found:
            raise PqmError(f"{path} has the name of {found[name]}: remove one of the two")
        found[name] = str(path)
    return found


def _texts(folder: Path) -> dict[str, str]:
    """Map each utterance to its transcript."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob(_TRANSCRIPTS)):
        if path.name.startswith("."):
            continue
        try:
            lines = decode_text(path.read_bytes(), path).split("\n")
        except PqmError as error:
            raise PqmError(f"{error}, or fetch the file again") from None
        for number, line in enumerate(lines, start=1):
            name, *words = line.split() or [""]
            name = nfc(name)
            if name in found:
                raise PqmError(f"{path}:{number}: {name} has a transcript already: remove one of the two")
            if name:
                found[name] = " ".join(words)
    return found
