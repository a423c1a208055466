"""Transcripts: words with times, and their output formats."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pqm_plugin.files import json_text

FORMATS = ("text", "json", "srt")
LONGEST_S = {"text": 30.0, "json": 30.0, "srt": 8.0}
"""Seconds of a segment at most where nothing else is asked for: subtitles are read, not searched."""


@dataclass(frozen=True)
class Segment:
    """The words between two cuts at silence; times of their speech in seconds from the start, `score` in nats.

    `confidence` is in [0, 1], see `confidence.sureness`. Where there are no words, the times are those of the cuts.
    """

    start_s: float
    end_s: float
    text: str
    score: float
    confidence: float


@dataclass(frozen=True)
class Transcript:
    """The words of one recording; `adapter` says which one was used: `speakers/NAME`, `sat` or `none`.

    `language`: the code of the language that the model found; empty where it was told.
    """

    audio: str
    adapter: str
    duration_s: float
    segments: tuple[Segment, ...]
    language: str = ""

    @property
    def text(self) -> str:
        """All words, separated by single blanks."""
        return " ".join(segment.text for segment in self.segments if segment.text)

    def as_dict(self) -> Mapping[str, Any]:
        """Plain values for JSON."""
        head = {"audio": self.audio, "adapter": self.adapter, "duration_s": round(self.duration_s, 3)}
        if self.language:
            head["language"] = self.language
        return head | {"text": self.text, "segments": [_rounded(asdict(segment)) for segment in self.segments]}

    def as_json(self, encoding: str = "utf-8") -> str:
        """One line of JSON that `encoding` can write."""
        return json_text(self.as_dict(), encoding=encoding)

    @property
    def spoken(self) -> list[Segment]:
        """The segments that have words."""
        return [segment for segment in self.segments if segment.text]

    def as_srt(self) -> str:
        """Subtitles; segments without words are left out."""
        return "".join(srt_entry(number, segment) for number, segment in enumerate(self.spoken, start=1))

    def as_vtt(self) -> str:
        """The same subtitles as WebVTT."""
        entries = (f"{_times(segment, '.')}\n{_escaped(segment.text)}\n\n" for segment in self.spoken)
        return "WEBVTT\n\n" + "".join(entries)


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}


def srt_entry(number: int, segment: Segment) -> str:
    """One subtitle: its number from 1, its times, its words, a blank line."""
    return f"{number}\n{_times(segment, ',')}\n{segment.text}\n\n"


def _times(segment: Segment, point: str) -> str:
    return f"{_clock(segment.start_s, point)} --> {_clock(segment.end_s, point)}"


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"


def _escaped(text: str) -> str:
    """WebVTT has tags and character references."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
