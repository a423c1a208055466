"""A table of recordings: a header that names its columns, then one utterance a line; tab, comma or semicolon."""

import csv
import difflib
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from pqm_plugin.corpus.kaldi import parse_channel
from pqm_plugin.corpus.names import on_disk
from pqm_plugin.corpus.readers._rows import Names, bad
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError
from pqm_plugin.files import decode_text, safe_name

_NEEDED = ("path", "text", "speaker")
_COLUMNS = (*_NEEDED, "utterance", "start_s", "end_s", "source", "channel")
_BOM = b"\xef\xbb\xbf"

_log = logging.getLogger(__name__)


def read_table(table: Path) -> Iterator[Utterance]:
    """Yield an utterance for each line below the header; paths are relative to the table's folder.

    With a column `start_s` or `end_s`, in seconds, an utterance is that part of its recording; an empty field is the
    recording's start or end. A column `channel`, from 0, says which channel is heard; an empty field averages all.
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
            yield _utterance(row, table, place, names, recordings)
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


def _utterance(row: Mapping[str, str], table: Path, place: str, names: Names, recordings: dict[str, str]) -> Utterance:
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
        raise PqmError(f"{start_s:g} s to {row.get('end_s') or 'the end'} is no part of a recording: 0 <= start < end")
    return start_s, end_s
