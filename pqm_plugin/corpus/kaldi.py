"""Kaldi data folders: `wav.scp`, `text`, `utt2spk`, `spk2utt` and, for parts of recordings, `segments`."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError
from pqm_plugin.files import decode_text, whole_folder

FILES = ("wav.scp", "text", "utt2spk", "spk2utt")
SEGMENTS = "segments"
_VALIDATE = "run `python -m pqm_plugin validate {}` for every problem of the folder"


def write_data_folder(folder: Path, utterances: Iterable[Utterance]) -> None:
    """Write a whole data folder, every file sorted as under `LC_ALL=C`; one that holds the same already is left alone.

    Raises:
        PqmError: if there is no utterance, two share a name, one lacks text, audio or speaker, or only some are
            segments.
    """
    ordered = _as_parts(sorted(utterances, key=lambda utterance: utterance.utterance))
    _check_writable(folder, ordered)
    contents = _contents(ordered)
    if _holds(folder, contents):
        return
    with whole_folder(folder) as scratch:
        for name, text in contents.items():
            (scratch / name).write_text(text, encoding="utf-8", newline="\n")


def read_data_folder(folder: Path) -> list[Utterance]:
    """Return the utterances of a data folder, sorted as under `LC_ALL=C`.

    Raises:
        PqmError: on the first line that cannot be used, and if the files do not name the same utterances.
    """
    audio, texts, speakers = (read_table(folder / name) for name in ("wav.scp", "text", "utt2spk"))
    parts = read_table(folder / SEGMENTS) if (folder / SEGMENTS).exists() else None
    names = audio.keys() if parts is None else parts.keys()
    for file, table in (("text", texts), ("utt2spk", speakers)):
        odd = sorted(names ^ table.keys())
        if odd:
            where = "is not in" if odd[0] in names else "is only in"
            raise PqmError(f"{folder / file}: {odd[0]} {where} this file: {_VALIDATE.format(folder)}")
    if parts is None:
        return [Utterance(name, speakers[name], texts[name], audio[name]) for name in sorted(names)]
    return [
        _segment(folder, Utterance(name, speakers[name], texts[name], ""), parts[name], audio) for name in sorted(names)
    ]


def read_lines(path: Path) -> list[tuple[str, str]]:
    """Return the first field and the rest of every line of a Kaldi table; both are empty for a blank line.

    Raises:
        PqmError: if the file is missing or not UTF-8.
    """
    try:
        text = decode_text(path.read_bytes(), path)
    except FileNotFoundError:
        raise PqmError(f"{path} is missing: run stage 1, or write the file") from None
    # Not splitlines(): that would also cut at a form feed or a Unicode line separator within a transcript.
    lines = [line.split(maxsplit=1) for line in text.removesuffix("\n").split("\n")]
    return [(line[0] if line else "", line[1].rstrip() if len(line) > 1 else "") for line in lines]


def read_table(path: Path) -> dict[str, str]:
    """Return a Kaldi table as a mapping from its first field to the rest of the line.

    Raises:
        PqmError: if the file is missing, and on the first line that is blank, has no value or repeats a name.
    """
    table: dict[str, str] = {}
    for number, (key, value) in enumerate(read_lines(path), start=1):
        if not key or not value or key in table:
            what = f"{key} appears twice here" if key in table else f"{key or 'a blank line'} has no value"
            raise PqmError(f"{path}:{number}: {what}: {_VALIDATE.format(path.parent)}")
        table[key] = value
    return table


def parse_segment(value: str) -> tuple[str, float, float | None, int | None]:
    """Return recording, start and end in seconds, and channel of a `segments` line without its name.

    An end of -1 becomes None. The channel is Kaldi's optional fifth field, counted from 0; None where there is none,
    or -1.

    Raises:
        ValueError: if it has other fields, or they are not a part of a recording.
    """
    fields = value.split()
    if len(fields) not in (3, 4):
        raise ValueError(f"{len(fields) + 1} fields instead of 4, or 5 with a channel")
    channel = parse_channel(fields[3]) if len(fields) == 4 and fields[3] != "-1" else None
    start_s, end_s = float(fields[1]), float(fields[2])
    if end_s == -1 and start_s >= 0:
        return fields[0], start_s, None, channel
    if not 0 <= start_s < end_s:
        raise ValueError(f"start {fields[1]} s and end {fields[2]} s are not a part of a recording")
    return fields[0], start_s, end_s, channel


def parse_channel(text: str) -> int:
    """Return the number of a channel, counted from 0 as in Kaldi.

    Raises:
        ValueError: if it is not one.
    """
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"channel {text[:20]!r} is not a number from 0")
    return int(text)


def _segment(folder: Path, utterance: Utterance, value: str, audio: dict[str, str]) -> Utterance:
    try:
        recording, start_s, end_s, channel = parse_segment(value)
        source = audio[recording]
    except (ValueError, KeyError) as error:
        raise PqmError(
            f"{folder / SEGMENTS}: {utterance.utterance}: {error} cannot be used: {_VALIDATE.format(folder)}"
        ) from None
    names = utterance.utterance, utterance.speaker, utterance.text
    return Utterance(*names, source, start_s, end_s, recording, channel=channel)


def _as_parts(utterances: list[Utterance]) -> list[Utterance]:
    """Only a part of a recording can name its channel: where one does, whole recordings become parts, to the end."""
    if all(utterance.channel is None for utterance in utterances):
        return utterances
    return [replace(each, start_s=0.0) if each.start_s is None else each for each in utterances]


def _check_writable(folder: Path, ordered: list[Utterance]) -> None:
    if not ordered:
        raise PqmError(f"{folder}: there is no utterance to write: check the corpus and the set's name")
    if len({utterance.start_s is None for utterance in ordered}) > 1:
        raise PqmError(f"{folder}: some utterances are segments and some are not: give all of them a start and an end")
    seen: set[str] = set()
    for utterance in ordered:
        name = utterance.utterance
        if name in seen:
            raise PqmError(f"{folder}: two utterances are called {name}: give each a name of its own")
        seen.add(name)
        for what in (name, utterance.speaker):
            if what.split() != [what]:
                raise PqmError(f"{folder}: {what!r} of utterance {name!r} is empty or holds a blank: rename it")
        if not utterance.text.strip() or not utterance.audio.strip():
            raise PqmError(f"{folder}: {name} lacks {'audio' if utterance.text.strip() else 'text'}: leave it out")


def _contents(ordered: list[Utterance]) -> dict[str, str]:
    by_speaker: dict[str, list[str]] = {}
    recordings: dict[str, str] = {}
    segments: list[str] = []
    for utterance in ordered:
        by_speaker.setdefault(utterance.speaker, []).append(utterance.utterance)
        recording = utterance.utterance
        if utterance.start_s is not None:
            recording = utterance.recording or utterance.utterance
            end_s = -1.0 if utterance.end_s is None else utterance.end_s
            channel = "" if utterance.channel is None else f" {utterance.channel}"
            segments.append(f"{utterance.utterance} {recording} {utterance.start_s!r} {end_s!r}{channel}")
        if recordings.setdefault(recording, utterance.audio) != utterance.audio:
            raise PqmError(f"recording {recording} has two sources: {recordings[recording]} and {utterance.audio}")
    contents = {
        "wav.scp": _lines(f"{name} {audio}" for name, audio in sorted(recordings.items())),
        "text": _lines(f"{utterance.utterance} {' '.join(utterance.text.split())}" for utterance in ordered),
        "utt2spk": _lines(f"{utterance.utterance} {utterance.speaker}" for utterance in ordered),
        "spk2utt": _lines(f"{speaker} {' '.join(names)}" for speaker, names in sorted(by_speaker.items())),
    }
    return contents | ({SEGMENTS: _lines(segments)} if segments else {})


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _holds(folder: Path, contents: dict[str, str]) -> bool:
    """Say whether a folder has these files with these bytes, and no `segments` of an earlier run."""
    if SEGMENTS not in contents and (folder / SEGMENTS).exists():
        return False
    return all(
        (folder / name).is_file() and (folder / name).read_bytes() == text.encode() for name, text in contents.items()
    )
