"""TED-LIUM 3 as distributed: `LAYOUT/{train,dev,test}/{sph/TALK.sph,stm/TALK.stm}`, a talk an audio file.

Sets are called `legacy-train`, `speaker-adaptation-test` and so on; `legacy` and `speaker-adaptation` are the three
sets of that layout together.
"""

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pqm_plugin.corpus.names import nfc, on_disk, suggest
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError
from pqm_plugin.files import decode_text

LAYOUTS = ("legacy", "speaker-adaptation")
PARTS = ("train", "dev", "test")
_INNER = "TEDLIUM_release-3"
_YEAR = re.compile(r"_\d{4}[A-Z]*(_.*)?$")
_IGNORED = "ignore_time_segment_in_scoring"
_GAP = "inter_segment_gap"
_UNKNOWN = "<unk>"
_LABEL = re.compile(r"<[^<>]*>")
# `read(2)` is the second pronunciation of "read"; `{NOISE}` and `<sil>` are sounds, not words.
_NOT_WORDS = re.compile(r"\(\d+\)|\{[^{}]*\}|<sil>|\([^()\s]*\)\s*$")
# The transcripts cut "it 's", "don 't", "o 'clock" and "the students ' work" in two; these are words of their own.
_OWN = r"em|n|til|till|cause|cuz|bout|round|tis|twas|\d"
_CUT = re.compile(rf"(?<=\w) +'(?!(?:{_OWN})(?:\b|\d))", re.IGNORECASE)

_log = logging.getLogger(__name__)


class _Segment(NamedTuple):
    start_s: float
    end_s: float
    text: str


def read(corpus: Path, set_name: str) -> Iterator[Utterance]:
    """Yield the segments of one set; the speaker is the talk's, by name, in all talks of that person.

    An utterance is called `TALK-NUMBER`: its place, from 0, among the talk's segments in the order of time, without
    those that are not to be scored and those in which a word is `<unk>`. How many these are is logged. Its source is
    the talk: what a speaker's test and train have in common.

    Raises:
        PqmError: if the set is not there, has no transcripts, or a line of them cannot be read.
    """
    counts: Counter[str] = Counter()
    for folder in _folders(corpus, set_name):
        stms = {path.stem: path for path in sorted((folder / "stm").glob("*.stm")) if path.name[0] != "."}
        for talk, path in stms.items():
            segments = _segments(path, counts)
            audio = _audio(folder, talk)
            counts.update(talks=1, segments=len(segments))
            for number, (start_s, end_s, text) in enumerate(segments):
                yield Utterance(f"{talk}-{number:04d}", speaker_of(talk), text, audio, start_s, end_s, talk, talk)
        for path in sorted((folder / "sph").glob("*.sph")):
            if path.name[0] != "." and nfc(path.stem) not in map(nfc, stms):
                yield Utterance(path.stem, speaker_of(path.stem), "", os.path.abspath(path))
    left_out = f"left out: {counts['ignored']} not to be scored, {counts['unknown']} with {_UNKNOWN}"
    _log.info("set %s: %d talks, %d segments; %s", set_name, counts["talks"], counts["segments"], left_out)


def available_sets(corpus: Path) -> list[str]:
    """Return the sets of the corpus, by name.

    Raises:
        PqmError: if `corpus` is not a folder.
    """
    root = _root(corpus)
    found = {layout: [part for part in PARTS if _has_stm(root / layout / part)] for layout in LAYOUTS}
    return sorted(
        [layout for layout in LAYOUTS if found[layout]] + [f"{a}-{part}" for a in LAYOUTS for part in found[a]]
    )


def speaker_of(talk: str) -> str:
    """Return who gives a talk: its name without the year and what follows, `AlGore` of `AlGore_2009`."""
    return _YEAR.sub("", talk) or talk


def clean(text: str) -> str:
    """Return the words of a transcript: marks of sounds and pronunciations gone, apostrophes at their words.

    A word that begins with an apostrophe itself, such as `'em` or `'90s`, stays one.
    """
    return " ".join(_CUT.sub("'", _NOT_WORDS.sub(" ", text)).split())


def _folders(corpus: Path, set_name: str) -> list[Path]:
    """Return the folders of a set, one or a layout's three."""
    known = available_sets(corpus)
    if set_name not in known:
        raise PqmError(
            f"{_root(corpus)}: no set {set_name} ({suggest(set_name, known)}): name one of them, or check that "
            f"--corpus holds {' and '.join(LAYOUTS)} with stm/*.stm in their sets"
        )
    root = _root(corpus)
    if set_name in LAYOUTS:
        return [root / set_name / part for part in PARTS if _has_stm(root / set_name / part)]
    layout, _, part = set_name.rpartition("-")
    return [root / layout / part]


def _root(corpus: Path) -> Path:
    """Return the absolute folder that holds the layouts."""
    folder = Path(os.path.abspath(corpus))
    if not folder.is_dir():
        raise PqmError(f"{folder} is not a folder: give the folder of {_INNER} with --corpus")
    return folder / _INNER if (folder / _INNER).is_dir() else folder


def _has_stm(folder: Path) -> bool:
    return any((folder / "stm").glob("*.stm"))


def _audio(folder: Path, talk: str) -> str:
    """Return a talk's audio: in the set, or where the layouts' links point, for copies that lost them."""
    for place in (folder / "sph", folder.parents[1] / "data" / "sph"):
        path = on_disk(place / f"{talk}.sph")
        if path.is_file():
            return str(path)
    return ""


def _segments(path: Path, counts: Counter[str]) -> list[_Segment]:
    """Return the segments of a talk that are to be scored and known to the last word, in the order of time."""
    try:
        lines = decode_text(path.read_bytes(), path).split("\n")
    except PqmError as error:
        raise PqmError(f"{error}, or fetch the file again") from None
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith(";;"):
            continue
        what, segment = _segment(line)
        if segment is None:
            raise PqmError(f"{path}:{number}: {what}: correct the line, or fetch the file again")
        counts[what] += 1
        if what == "kept":
            found.append(segment)
    return sorted(found, key=lambda segment: segment.start_s)


def _segment(line: str) -> tuple[str, _Segment | None]:
    """Return `kept`, `ignored` or `unknown` with the segment of a line, or what is wrong with it."""
    fields = line.split(maxsplit=5)
    try:
        speaker, start_s, end_s = fields[2], float(fields[3]), float(fields[4])
    except (IndexError, ValueError):
        return "not 'talk channel speaker start end <label> words'", None
    text = fields[5] if len(fields) > 5 else ""
    label = _LABEL.match(text)
    if label and label[0] not in (_UNKNOWN, "<sil>"):
        text = text[label.end() :]
    words = clean(text)
    if speaker == _GAP or not words or _IGNORED in words.lower():
        return "ignored", _Segment(start_s, end_s, "")
    if not 0 <= start_s < end_s:
        return f"start {start_s} s and end {end_s} s are not a part of a talk", None
    return "unknown" if _UNKNOWN in words else "kept", _Segment(start_s, end_s, words)
