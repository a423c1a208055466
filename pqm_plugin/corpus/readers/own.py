"""A corpus of the user's own: Kaldi data folder, table, manifest of lhotse, or folders of audio and text by speaker."""

import csv
import difflib
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from pqm_plugin.corpus.kaldi import SEGMENTS, parse_channel, parse_segment, read_lines
from pqm_plugin.corpus.names import AUDIO_ENDINGS, COMPANION_ENDINGS, is_audio_name, join_first, nfc, on_disk, suggest
from pqm_plugin.corpus.readers import lhotse
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
            why = f"is not of a supported kind ({path.suffix or 'no ending'}): convert it to WAV, or take it out"
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
            yield _folder_row(path, folder, beside.get(_stem(path)), listed, names)
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


def _folder_row(path: Path, folder: Path, beside: Path | None, listed: _Texts, names: Names) -> Utterance:
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


_Table = dict[str, tuple[str, str]]  # name -> value, place


def read_kaldi(folder: Path) -> Iterator[Utterance]:
    """Yield the utterances of `wav.scp`, `text`, `utt2spk` and, if it is there, `segments`; `spk2utt` is not read.

    A relative path is looked up as Kaldi does, from where the recipe is called, and else beside `wav.scp`.

    Raises:
        PqmError: if a file is missing or not UTF-8.
    """
    audio, texts, speakers, parts = (_Table() for _ in range(4))
    files = {"wav.scp": audio, "text": texts, "utt2spk": speakers}
    if (folder / SEGMENTS).exists():
        files[SEGMENTS] = parts
    for name, table in files.items():
        yield from _fill(folder / name, table)
    utterances = parts if SEGMENTS in files else audio
    names = Names()
    for name in sorted(utterances.keys() | texts.keys() | speakers.keys()):
        entries = [table[name] for table in (utterances, texts, speakers) if name in table]
        place = next((place for value, place in entries if not value), entries[0][1])
        speaker = speakers.get(name, ("", ""))[0]
        try:
            if not all(value for value, _ in entries):
                raise PqmError(f"{name} has no value: complete the line, or delete it in all files")
            if name not in utterances:
                raise PqmError(f"transcript without audio: add {name} to {'segments' if parts else 'wav.scp'}")
            if name not in texts or name not in speakers:
                what, file = ("transcript", "text") if name not in texts else ("speaker", "utt2spk")
                raise PqmError(f"audio without {what}: add {name} to {file}")
            names.take(name, place)
            yield _kaldi_row(folder, name, safe_name(speaker), texts[name][0], utterances[name], audio)
        except PqmError as error:
            yield bad(place, str(error), name, speaker)


def _fill(path: Path, table: _Table) -> Iterator[Utterance]:
    """Put the lines of a file into `table` and yield those that cannot be used."""
    for number, (key, value) in enumerate(read_lines(path), start=1):
        place = f"{path}:{number}"
        key = nfc(key)
        if not key:
            yield bad(place, "blank line: delete it")
        elif key in table:
            yield bad(place, f"{key} stands in {table[key][1]} already: keep one of the two lines", key)
        else:
            table[key] = (value, place)


def _kaldi_row(folder: Path, name: str, speaker: str, text: str, entry: tuple[str, str], audio: _Table) -> Utterance:
    value, place = entry
    if audio.get(name) == entry:  # the line is one of wav.scp itself
        return Utterance(name, speaker, text, _absolute(value, folder), place=place)
    try:
        recording, start_s, end_s, channel = parse_segment(nfc(value))
    except ValueError as error:
        raise PqmError(
            f"{error}: write `utterance recording start end [channel]`, in seconds and the channel from 0"
        ) from None
    if not audio.get(recording, ("", ""))[0]:
        raise PqmError(f"recording {recording} is not in wav.scp: add it there")
    source = _absolute(audio[recording][0], folder)
    return Utterance(name, speaker, text, source, start_s, end_s, recording, recording, place, channel=channel)


def _absolute(audio: str, folder: Path) -> str:
    """Return a path of `wav.scp` as an absolute one; a command stays what it is."""
    if audio.endswith("|"):
        return audio
    file = re.sub(r":\d+$", "", audio)  # an offset in an archive
    for path in (Path(file), folder / file):
        found = on_disk(path)
        if found.exists() or os.path.exists(f"{path}{audio[len(file) :]}"):
            whole = path if os.path.exists(f"{path}{audio[len(file) :]}") else found
            return os.path.abspath(f"{whole}{audio[len(file) :]}")
    return os.path.abspath(folder / audio)


_NEEDED = ("path", "text", "speaker")
_COLUMNS = (*_NEEDED, "utterance", "start_s", "end_s", "source", "channel")
_BOM = b"\xef\xbb\xbf"

_log = logging.getLogger(__name__)


def read_table(table: Path) -> Iterator[Utterance]:
    """Yield an utterance for each line below the header; paths are relative to the table's folder.

    With a column `start_s` or `end_s`, in seconds, an utterance is that part of its recording; an empty field is the
    recording's start or end. A column `channel`, from 0, says which channel is used; an empty field averages all.
    Without a column `utterance`, names are made from speaker and path.

    Raises:
        PqmError: if the header does not name the columns.
    """
    header, *lines = re.split(rb"\r\n|\n|\r", _bytes(table))
    columns, delimiter = _header(table, header)
    names, recordings = Names(), dict[str, str]()
    for number, line in enumerate(lines, start=2):
        if not line.strip():
            continue
        place = f"{table}:{number}"
        row: dict[str, str] = {}
        try:
            row = _fields(line, columns, delimiter)
            yield _table_row(row, table, place, names, recordings)
        except PqmError as error:
            yield bad(place, str(error), row.get("utterance", ""), row.get("speaker", ""))


def _bytes(table: Path) -> bytes:
    """The table without a mark of byte order; one line of another encoding costs no other, all of UTF-16 is refused."""
    data = table.read_bytes()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data[:4]:
        decode_text(data, table)
    return data.removeprefix(_BOM)


def _header(table: Path, line: bytes) -> tuple[list[str], str]:
    """Return the columns' names and what parts them; a column that is not known is named and not read."""
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise PqmError(f"{table} is not UTF-8: save it as UTF-8 text") from None
    delimiter = max("\t,;", key=text.count)
    columns = [name.strip().lower() for name in next(csv.reader([text], delimiter=delimiter), [])]
    lacking = [name for name in _NEEDED if name not in columns]
    twice = sorted({name for name in columns if name in _COLUMNS and columns.count(name) > 1})
    if lacking or twice:
        what = f"lacks {', '.join(lacking)}" if lacking else f"has {', '.join(twice)} twice"
        raise PqmError(f"{table}:1: the header {' '.join(columns)[:80]!r} {what}: name {', '.join(_COLUMNS)} there")
    for name in sorted(set(columns) - set(_COLUMNS)):
        near = difflib.get_close_matches(name, set(_COLUMNS) - set(columns), n=1, cutoff=0.7)
        if near:
            raise PqmError(f"{table}:1: column {name!r} is not known: call it {near[0]!r}, or take it out")
        _log.warning("%s:1: column %r is not known and not read", table, name)
    return columns, delimiter


def _fields(line: bytes, columns: list[str], delimiter: str) -> dict[str, str]:
    """Return a line's fields by column. Each line is read by itself, so that an open quote costs no other line."""
    try:
        text = line.decode("utf-8-sig")  # of joined tables
        fields = next(csv.reader([text], delimiter=delimiter))
    except UnicodeDecodeError as error:
        raise PqmError(f"is not UTF-8 at byte {error.start}: save the table as UTF-8 text") from None
    except csv.Error as error:
        raise PqmError(f"cannot be read ({error}): write one field a column") from None
    if len(fields) != len(columns):
        quote = ", and a quote is not closed" if text.count('"') % 2 else ""
        raise PqmError(f"{len(fields)} fields instead of {len(columns)}{quote}: write one field a column")
    return {name: field.strip() for name, field in zip(columns, fields, strict=True) if name in _COLUMNS}


def _table_row(row: Mapping[str, str], table: Path, place: str, names: Names, recordings: dict[str, str]) -> Utterance:
    for column in _NEEDED:
        if not row[column]:
            raise PqmError(f"{column} is empty: fill it in, or delete the line")
    speaker, path = safe_name(row["speaker"]), row["path"]
    if path.endswith("|"):
        raise PqmError(f"{path[:80]!r} is a command: put commands into wav.scp of a Kaldi data folder")
    audio = os.path.abspath(on_disk(table.parent / path))
    start_s, end_s = _span(row)
    channel = _channel(row)
    ending = "" if start_s is None else f"-{round(start_s * 100):06d}"
    ending += "" if channel is None else f"-c{channel}"
    given = row.get("utterance")
    name = names.take(given, place) if given else names.make(speaker, Path(path), place, ending)
    # A recording is called after its first utterance.
    recording = None if start_s is None and channel is None else recordings.setdefault(audio, name)
    source = row.get("source") or ("" if recording is None else recording)
    return Utterance(name, speaker, row["text"], audio, start_s, end_s, recording, source, place, channel=channel)


def _channel(row: Mapping[str, str]) -> int | None:
    try:
        return parse_channel(row["channel"]) if row.get("channel") else None
    except ValueError as error:
        raise PqmError(f"{error}: the first channel is 0; leave it empty to average all") from None


def _span(row: Mapping[str, str]) -> tuple[float | None, float | None]:
    """Return start and end in seconds, both None where the table has no such columns."""
    if "start_s" not in row and "end_s" not in row:
        return None, None
    try:
        start_s = float(row.get("start_s") or 0)
        end_s = float(row["end_s"]) if row.get("end_s") else None
    except ValueError as error:
        raise PqmError(f"{error}: write start_s and end_s in seconds") from None
    behind = math.nextafter(math.inf, 0) if end_s is None else end_s
    if not 0 <= start_s < behind < math.inf:
        raise PqmError(f"{start_s:g} s to {row.get('end_s') or 'the end'} is not part of a recording: 0 <= start < end")
    return start_s, end_s


WHOLE = "own"
"""Name of the one set of a corpus that is a single folder or table."""
_FORMS = (
    "a Kaldi data folder (wav.scp, text, utt2spk), a table of path, text, speaker, a manifest of lhotse (.jsonl, "
    ".jsonl.gz), or a folder for each speaker"
)


def read(corpus: Path, set_name: str) -> Iterator[Utterance]:
    """Yield the utterances of the set `own`, or of one Kaldi folder among several; bad lines carry their `problem`.

    Raises:
        PqmError: if the set is not there, or a whole file cannot be read.
    """
    yield from read_made(corpus, set_name, None)


def read_made(corpus: Path, set_name: str, sounds: Path | None) -> Iterator[Utterance]:
    """Yield what `read` does, and of a manifest of lhotse the sound, too, that lies in no file: it goes to `sounds`.

    Raises:
        PqmError: as `read` does.
    """
    sets = available_sets(corpus)
    if set_name not in sets:
        raise PqmError(f"{corpus} has no set {set_name!r} ({suggest(set_name, sets)}): name it with --target_set")
    if _is_of_lhotse(corpus):
        yield from lhotse.read_made(corpus, set_name, sounds)
        return
    inner = corpus / set_name
    folder = inner if (inner / "wav.scp").is_file() and not (corpus / "wav.scp").is_file() else corpus
    if folder.is_file():
        yield from read_table(folder)
    elif (folder / "wav.scp").is_file():
        yield from read_kaldi(folder)
    else:
        yield from read_folders(folder)


def available_sets(corpus: Path) -> list[str]:
    """Return `own`, or the names of the Kaldi folders where `corpus` holds several.

    Raises:
        PqmError: if `corpus` is none of these forms, saying what it is instead.
    """
    if not os.path.exists(corpus):
        raise PqmError(f"{corpus} is missing: give with --corpus {_FORMS}")
    if _is_of_lhotse(corpus):
        return lhotse.available_sets(corpus)
    if corpus.is_file() or (corpus / "wav.scp").is_file():
        return [WHOLE]
    kaldi = sorted(folder.parent.name for folder in corpus.glob("*/wav.scp"))
    if kaldi:
        return kaldi
    if any(True for _ in speaker_folders(corpus)):
        return [WHOLE]
    loose = any(is_audio_name(path) for path in corpus.iterdir())
    found = "holds recordings that are in no speaker's folder" if loose else "holds no recordings"
    endings = {path.suffix.lower() for path in corpus.rglob("*") if path.is_file()} - {"", *COMPANION_ENDINGS}
    if endings and not loose:
        found += f" of a supported kind (but files of {join_first(sorted(endings), 5)})"
    raise PqmError(f"{corpus} {found}: give with --corpus {_FORMS}")


def _is_of_lhotse(corpus: Path) -> bool:
    return not (corpus / "wav.scp").is_file() and lhotse.is_manifest(corpus)
