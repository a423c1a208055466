"""One utterance of one speaker, the unit of every corpus."""

import hashlib
import json
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field, fields


@dataclass(frozen=True)
class Utterance:
    """One utterance, and where its samples are.

    `audio` is the right-hand side of `wav.scp`: an absolute path, `archive.ark:OFFSET`, or `command |`. When `start_s`
    is given, the utterance is that part of `recording`; an `end_s` of None then means the end of the recording.

    `channel`, counted from 0, is the channel of the recording that is used; None averages all.

    A corpus reader yields what it finds, whole or not: `audio` is empty for a transcript without audio, `text` is empty
    for audio without a transcript. The data stage names and counts those and leaves them out.

    What only the data stage needs is not part of what an utterance is: `source`, the book, talk or session that it is
    from, empty where the corpus does not tell; `place`, the `file:line` where a list of the user names it, so that one
    bad line costs that line alone; `problem`, why the reader found that line to be of no use.
    """

    utterance: str
    speaker: str
    text: str
    audio: str
    start_s: float | None = None
    end_s: float | None = None
    recording: str | None = None
    source: str = field(default="", repr=False, compare=False)
    place: str = field(default="", repr=False, compare=False)
    problem: str = field(default="", repr=False, compare=False)
    channel: int | None = field(default=None, kw_only=True)

    def __repr__(self) -> str:
        """Name what an utterance is; `channel` only where there is one, for what is kept by this text stays valid."""
        shown = [
            each.name for each in fields(self) if each.repr and (each.name != "channel" or self.channel is not None)
        ]
        return f"Utterance({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"


def digest(utterances: Sequence[Utterance]) -> str:
    """Hash (16 hexadecimal digits) of names, speakers, texts, and places and sizes of the audio."""
    text = json.dumps([(repr(utterance), size_bytes(utterance)) for utterance in utterances])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def size_bytes(utterance: Utterance) -> int:
    """Size of the file that the audio is in; 0 for an archive's offset or a command."""
    try:
        status = os.stat(utterance.audio)
    except (OSError, ValueError):
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0
