"""A folder for each speaker: recordings, with a text file beside each or one list of `name text` lines."""

import os
from collections.abc import Iterator
from pathlib import Path

from pqm_plugin.corpus.names import AUDIO_ENDINGS, COMPANION_ENDINGS, is_audio_name, nfc
from pqm_plugin.corpus.readers._rows import Names, bad
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError
from pqm_plugin.files import decode_text, safe_name

_Texts = dict[str, tuple[str, str]]  # name -> text, place


def speaker_folders(corpus: Path) -> Iterator[Path]:
    """Yield the folders that hold recordings, sorted; each is named after its speaker."""
    for folder in sorted(corpus.iterdir()):
        if (
            folder.is_dir()
            and not folder.name.startswith(".")
            and any(is_audio_name(path) for path in folder.rglob("*"))
        ):
            yield folder


def read_folders(corpus: Path) -> Iterator[Utterance]:
    """Yield the recordings of every speaker's folder; a folder within it is a session, the utterance's source."""
    names = Names()
    for path in sorted(corpus.iterdir()):
        if is_audio_name(path):
            yield bad(str(path), "is in no speaker's folder: move it into one that is named after the speaker")
    for folder in sorted(corpus.iterdir()):
        # A folder without a recording that is known is read, too: its speaker must not be lost without a word.
        if folder.is_dir() and not folder.name.startswith("."):
            yield from _read_speaker(folder, names)


def _read_speaker(folder: Path, names: Names) -> Iterator[Utterance]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    audio = [path for path in files if is_audio_name(path)]
    for path in files:
        if path.suffix.lower() not in (*AUDIO_ENDINGS, *COMPANION_ENDINGS):
            why = f"is of no kind that is known ({path.suffix or 'no ending'}): convert it to WAV, or take it out"
            yield bad(str(path), why, path.stem, folder.name)
    if not files:
        yield bad(str(folder), "holds no recordings: put them there, or delete the folder", speaker=folder.name)
    stems = {_stem(path) for path in audio}
    texts = [path for path in files if path.suffix.lower() == ".txt"]
    beside = {_stem(path): path for path in texts if _stem(path) in stems}
    listed: _Texts = {}
    for path in texts:
        if _stem(path) not in beside:
            yield from _read_list(path, folder.name, listed)
    for path in audio:
        try:
            yield _utterance(path, folder, beside.get(_stem(path)), listed, names)
        except PqmError as error:
            yield bad(str(path), str(error), path.stem, folder.name)
    for name in sorted(listed.keys() - {nfc(path.stem) for path in audio}):
        why = "transcript without audio: put the recording there, or delete the line"
        yield bad(listed[name][1], why, name, folder.name)


def _stem(path: Path) -> Path:
    """The path without its ending, its name in NFC, so that a text from another system is found."""
    return path.with_name(nfc(path.stem))


def _read_list(path: Path, speaker: str, listed: _Texts) -> Iterator[Utterance]:
    """Add the lines of a list to `listed` and yield those that cannot be used."""
    data = path.read_bytes()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data[:4]:
        yield bad(str(path), "is UTF-16: save the list as UTF-8 text", speaker=speaker)
        return
    for number, line in enumerate(data.splitlines(), start=1):
        place = f"{path}:{number}"
        try:
            name, *words = line.decode("utf-8-sig").split()
        except UnicodeDecodeError:
            yield bad(place, "is not UTF-8: save the list as UTF-8 text", speaker=speaker)
        except ValueError:
            continue  # a blank line
        else:
            name = nfc(name)
            name = name if Path(name).suffix.lower() not in AUDIO_ENDINGS else Path(name).stem
            if name in listed:
                yield bad(place, f"{name} is named in {listed[name][1]} already: keep one of the two", name, speaker)
            else:
                listed[name] = (" ".join(words), place)


def _utterance(path: Path, folder: Path, beside: Path | None, listed: _Texts, names: Names) -> Utterance:
    speaker = safe_name(folder.name)
    text, place = listed.get(nfc(path.stem), ("", str(path)))
    if beside is not None:
        place = str(beside)
        text = " ".join(decode_text(beside.read_bytes(), Path(beside.name)).split())
    if not text:
        lacks = f"the text in {place} is empty" if beside or nfc(path.stem) in listed else "audio without transcript"
        raise PqmError(f"{lacks}: write it into {path.stem}.txt beside the recording")
    inner = path.relative_to(folder)
    name = names.make(speaker, inner, place)
    session = "" if len(inner.parts) == 1 else str(inner.parent)
    return Utterance(name, speaker, text, os.path.abspath(path), source=session, place=place)
