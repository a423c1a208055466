"""What is decoded of one speaker, on disk after every utterance."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from pqm_plugin.files import no_space_as_error, write_text


@dataclass(frozen=True)
class Line:
    """One decoded utterance; `score` is a log probability in nats, None where the decoder gives none.

    `n_tokens` counts the tokens that were found, `mode` is how packed weights were computed with; 0 and empty in the
    files of earlier versions.
    """

    utterance: str
    text: str
    score: float | None
    audio_s: float
    decode_s: float
    peak_rss_bytes: int
    n_tokens: int = 0
    mode: str = ""

    @property
    def confidence(self) -> float:
        """The score in nats a token, the end counted as one; minus infinity without a score."""
        return float("-inf") if self.score is None else self.score / (self.n_tokens + 1)


@dataclass(frozen=True)
class Part:
    """A speaker's words under one system: `lines` so far, and the utterances that are `missing`.

    On disk a line of JSON says what was asked for, then one line an utterance. A file that answers another request, or
    whose last line was cut off, counts as far as it is right.
    """

    path: Path
    request: Mapping[str, Any]
    lines: tuple[Line, ...]
    missing: list[str]

    @classmethod
    def read(cls, path: Path, request: Mapping[str, Any], utterances: Sequence[str]) -> Self:
        """What `path` holds of an answer to `request`, whose utterances are given."""
        request = json.loads(json.dumps(request))
        lines = _lines(path, request)
        done = {line.utterance for line in lines}
        return cls(path, request, lines, [name for name in utterances if name not in done])

    def start(self) -> None:
        """Rewrite the file with what is right in it, so that lines can be appended."""
        rows = [json.dumps({"request": self.request}), *(_row(line) for line in self.lines)]
        write_text(self.path, "".join(f"{row}\n" for row in rows))

    def append(self, line: Line) -> None:
        """Add a line at once, so that a killed job has lost one utterance at most."""
        with no_space_as_error(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(_row(line) + "\n")


def _row(line: Line) -> str:
    return json.dumps(asdict(line), ensure_ascii=False)


def _lines(path: Path, request: Any) -> tuple[Line, ...]:
    if not path.exists():
        return ()
    head, *rows = path.read_text(encoding="utf-8", errors="replace").split("\n")
    found = []
    try:
        if json.loads(head).get("request") != request:
            return ()
        for row in rows:
            found.append(Line(**json.loads(row)))
    except (json.JSONDecodeError, TypeError, AttributeError):
        # The line that a kill cut off, or the empty one at the end.
        pass
    return tuple(found)
