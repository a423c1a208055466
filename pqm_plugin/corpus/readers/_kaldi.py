"""A Kaldi data folder of the user's own: a line that cannot be used costs that utterance alone."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from pqm_plugin.corpus.kaldi import SEGMENTS, parse_segment, read_lines
from pqm_plugin.corpus.names import nfc, on_disk
from pqm_plugin.corpus.readers._rows import Names, bad
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError
from pqm_plugin.files import safe_name

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
            yield _utterance(folder, name, safe_name(speaker), texts[name][0], utterances[name], audio)
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


def _utterance(folder: Path, name: str, speaker: str, text: str, entry: tuple[str, str], audio: _Table) -> Utterance:
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
