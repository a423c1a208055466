"""Find every problem of a Kaldi data folder, each with its file, its line and a remedy."""

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pqm_plugin.corpus.audio import OVERSHOOT_S, AudioInfo, blocks_of, probe
from pqm_plugin.corpus.kaldi import FILES, SEGMENTS, parse_segment, read_lines
from pqm_plugin.corpus.names import join_first, on_disk
from pqm_plugin.corpus.samples import trouble_of
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError
from pqm_plugin.files import safe_name

_BOM = b"\xef\xbb\xbf"
_PIECE = re.compile(r"(?P<whole>.+)-\d+")


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a data folder; `line` is 0 when it is about the whole file."""

    file: Path
    line: int
    severity: str  # "error" or "warning"
    what: str
    remedy: str

    def __str__(self) -> str:
        """Return the problem as one line that editors can jump to."""
        place = f"{self.file}:{self.line}" if self.line else f"{self.file}"
        return f"{place}: {self.severity}: {self.what}: {self.remedy}"


@dataclass(frozen=True)
class _Entry:
    value: str
    line: int


_Table = dict[str, _Entry]


def validate(folder: Path, read_audio: bool = True, sample_rate: int = 16000) -> list[Problem]:
    """Return every problem of a data folder; without `read_audio` no audio file is opened.

    `sample_rate` in Hz is what the model wants; other rates are warnings, they will be resampled.
    """
    if not folder.is_dir():
        return [Problem(folder, 0, "error", "is not a folder", "give the folder that holds wav.scp and text")]
    problems: list[Problem] = []
    tables = {name: _read(folder / name, problems) for name in FILES}
    has_segments = (folder / SEGMENTS).exists()
    segments = _read(folder / SEGMENTS, problems) if has_segments else {}
    utterances = segments if has_segments else tables["wav.scp"]
    problems += _compare(folder, utterances, SEGMENTS if has_segments else "wav.scp", tables)
    problems += _check_inverse(folder, tables["utt2spk"], tables["spk2utt"])
    problems += _check_speakers(folder, tables["utt2spk"], segments)
    durations_s: dict[str, float] = {}
    n_channels: dict[str, int] = {}
    chosen = _channels_chosen(segments)
    if read_audio:
        problems += _check_audio(folder / "wav.scp", tables["wav.scp"], sample_rate, durations_s, n_channels, chosen)
    problems += _check_segments(folder / SEGMENTS, segments, tables["wav.scp"], durations_s, n_channels)
    order = {name: place for place, name in enumerate((*FILES, SEGMENTS))}
    return sorted(problems, key=lambda problem: (order.get(problem.file.name, -1), problem.line))


def speaker_warnings(speakers: Iterable[tuple[str, str, str]]) -> list[str]:
    """Say which speakers look like chapters or pieces of a talk, given `(utterance, speaker, recording)` triples.

    ESPnet's LibriSpeech preparation writes `reader-chapter` speakers, and Kaldi's `modify_speaker_info.sh`, in the
    TED-LIUM 3 one, cuts each talk into numbered pieces of 180 s. Both hide the person.
    """
    chapters: set[str] = set()
    pieces: dict[str, set[str]] = {}
    recordings: dict[str, set[str]] = {}
    for utterance, speaker, recording in speakers:
        match = _PIECE.fullmatch(speaker)
        if re.fullmatch(r"\d+-\d+", speaker):
            chapters.add(speaker)
        elif match and _names_talk(utterance, speaker, match["whole"]):
            pieces.setdefault(match["whole"], set()).add(speaker)
        if match:
            recordings.setdefault(recording, set()).add(speaker)
    for shared in recordings.values():
        if len(shared) > 1:
            pieces.setdefault(sorted(shared)[0].rsplit("-", 1)[0], set()).update(shared - chapters)
    cut = sorted(name for group in pieces.values() if len(group) > 1 for name in group)
    warnings = []
    if chapters:
        warnings.append(f"{len(chapters)} speakers look like reader-chapter ({join_first(sorted(chapters), 3)})")
    if cut:
        warnings.append(f"{len(cut)} speakers look like numbered pieces of a talk ({join_first(cut, 3)})")
    return warnings


def _names_talk(utterance: str, speaker: str, talk: str) -> bool:
    """Say whether the utterance is named after the talk rather than after the numbered speaker."""
    rest = utterance.removeprefix(speaker)
    own = rest != utterance and not rest[:1].isdigit()
    return (rest.lstrip("-_.") if own else utterance).startswith(talk)


def _read(path: Path, problems: list[Problem]) -> _Table:
    """Return the usable lines of a table and add a problem for every other one."""
    try:
        lines = read_lines(path)
    except PqmError as error:
        what, _, remedy = str(error).removeprefix(f"{path} ").rpartition(": ")
        problems.append(Problem(path, 0, "error", what, remedy))
        return {}
    if path.read_bytes().startswith(_BOM):
        remedy = r"stage 1 leaves it out; for other tools run sed -i '1s/^\xEF\xBB\xBF//' on it"
        problems.append(Problem(path, 1, "warning", "begins with a mark of byte order (BOM)", remedy))
    if path.read_bytes().find(b"\r\n") >= 0:
        problems.append(Problem(path, 0, "error", "has Windows line ends", r"run sed -i 's/\r$//' on it"))
    table: _Table = {}
    previous = ""
    for number, (key, value) in enumerate(lines, start=1):
        if not key:
            problems.append(Problem(path, number, "error", "blank line", "delete it"))
            continue
        if key in table:
            where = f"{key} stands in line {table[key].line} already"
            problems.append(Problem(path, number, "error", where, "keep one of the two lines"))
            continue
        if key < previous:
            what = f"{key} is not in order after {previous}"
            problems.append(Problem(path, number, "error", what, "sort the file with LC_ALL=C sort"))
        if not value:
            what = f"{key} has no text" if path.name == "text" else f"{key} has no value"
            problems.append(Problem(path, number, "error", what, "complete the line or delete it in all files"))
        previous = key
        table[key] = _Entry(value, number)
    return table


def _compare(folder: Path, utterances: _Table, source: str, tables: dict[str, _Table]) -> list[Problem]:
    """Find transcripts without audio, audio without transcript, and utterances without a speaker."""
    lacking = {"text": "audio without transcript", "utt2spk": "utterance without speaker"}
    surplus = {"text": "transcript without audio", "utt2spk": "speaker of an utterance without audio"}
    problems = []
    for name in lacking:
        if not (folder / name).exists():
            continue
        for key in sorted(utterances.keys() - tables[name].keys()):
            remedy = f"add {key} to {name}, or delete it in all files"
            problems.append(Problem(folder / source, utterances[key].line, "error", f"{lacking[name]}: {key}", remedy))
        for key in sorted(tables[name].keys() - utterances.keys()):
            remedy = f"add {key} to {source}, or delete it in all files"
            problems.append(Problem(folder / name, tables[name][key].line, "error", f"{surplus[name]}: {key}", remedy))
    return problems


def _check_inverse(folder: Path, utt2spk: _Table, spk2utt: _Table) -> list[Problem]:
    if not (folder / "spk2utt").exists():
        return []
    there = {(name, speaker): entry.line for speaker, entry in spk2utt.items() for name in entry.value.split()}
    here = {(name, entry.value): entry.line for name, entry in utt2spk.items()}
    remedy = "write spk2utt again from utt2spk"
    return [
        Problem(folder / file, lines[pair], "error", f"{pair[0]} of {pair[1]} is not in {other}", remedy)
        for file, lines, other, pairs in (
            ("spk2utt", there, "utt2spk", there.keys() - here.keys()),
            ("utt2spk", here, "spk2utt", here.keys() - there.keys()),
        )
        for pair in sorted(pairs)
    ]


def _check_speakers(folder: Path, utt2spk: _Table, segments: _Table) -> list[Problem]:
    path = folder / "utt2spk"
    problems = []
    first_lines: dict[str, int] = {}
    for entry in utt2spk.values():
        first_lines.setdefault(entry.value, entry.line)
    for speaker, line in first_lines.items():
        try:
            safe_name(speaker)
        except PqmError as error:
            what, _, remedy = str(error).rpartition(": ")
            problems.append(Problem(path, line, "error", what, remedy))
    recordings = {name: (entry.value.split() or [name])[0] for name, entry in segments.items()}
    triples = [(name, entry.value, recordings.get(name, name)) for name, entry in utt2spk.items()]
    remedy = "name the person in utt2spk, or each piece gets an adapter of its own"
    problems += [Problem(path, 0, "warning", what, remedy) for what in speaker_warnings(triples)]
    return problems


def _channels_chosen(segments: _Table) -> set[str]:
    """The recordings of which every segment says its channel."""
    averaged, named = set[str](), set[str]()
    for entry in segments.values():
        with contextlib.suppress(ValueError):
            recording, _, _, channel = parse_segment(entry.value)
            (averaged if channel is None else named).add(recording)
    return named - averaged


def _check_audio(
    path: Path,
    recordings: _Table,
    sample_rate: int,
    durations_s: dict[str, float],
    n_channels: dict[str, int],
    chosen: set[str],
) -> list[Problem]:
    """Decode every recording and note how long it is and how many channels it has."""
    problems = []
    rates: dict[int, list[int]] = {}
    for name, entry in recordings.items():
        if not entry.value:
            continue
        try:
            info = probe(Utterance(name, "", "", entry.value), decode=True)
        except PqmError as error:
            what, _, remedy = str(error).rpartition(": ")
            problems.append(Problem(path, entry.line, "error", what, remedy))
            continue
        durations_s[name], n_channels[name] = info.duration_s, info.n_channels
        for remark in info.remarks:
            problems.append(Problem(path, entry.line, "warning", f"{entry.value} {remark}", "listen to it"))
        problems += _check_sound(path, entry, info, chosen=name in chosen)
        if info.sample_rate != sample_rate:
            rates.setdefault(info.sample_rate, []).append(entry.line)
    for rate, lines in sorted(rates.items()):
        what = f"{len(lines)} recordings, this the first, are at {rate} Hz"
        problems.append(Problem(path, lines[0], "warning", what, f"they will be resampled to {sample_rate} Hz"))
    return problems


def _check_sound(path: Path, entry: _Entry, info: AudioInfo, *, chosen: bool) -> list[Problem]:
    """Look at a recording that can be decoded: is it silent, should its channels be averaged, is its name its own."""
    found = []
    if info.is_silent:
        found.append(("is silent", "listen to it"))
    if info.n_channels > 1 and not chosen:
        trouble = trouble_of(blocks_of(Utterance("", "", "", entry.value)))
        if trouble:
            found.append((f": {trouble}", "name the channel, from 0, in the fifth field of segments"))
    if not entry.value.endswith("|") and on_disk(Path(entry.value)) != Path(entry.value):
        what = "is spelled in another normalisation of Unicode than the file's name"
        found.append((what, "stage 1 finds it; for other tools spell it as `ls` does"))
    return [
        Problem(path, entry.line, "warning", f"{entry.value}{'' if what[0] == ':' else ' '}{what}", remedy)
        for what, remedy in found
    ]


def _check_segments(
    path: Path, segments: _Table, recordings: _Table, durations_s: dict[str, float], n_channels: dict[str, int]
) -> list[Problem]:
    problems = []
    for name, entry in segments.items():
        what = ""
        try:
            recording, start_s, end_s, channel = parse_segment(entry.value)
        except ValueError as error:
            what = str(error)
        else:
            length_s = durations_s.get(recording)
            if recording not in recordings:
                what = f"recording {recording} is not in wav.scp"
            elif length_s is not None and (start_s >= length_s or (end_s or 0.0) > length_s + OVERSHOOT_S):
                what = f"ends behind its recording of {length_s:.2f} s"
            elif channel is not None and channel >= n_channels.get(recording, channel + 1):
                what = f"channel {channel} is not in its recording of {n_channels[recording]}, counted from 0"
        if what:
            remedy = "write `utterance recording start end [channel]`, in seconds within the recording"
            problems.append(Problem(path, entry.line, "error", f"{name}: {what}", remedy))
    return problems
