"""One page of a report that opens from disk: a table that sorts, bars, and each utterance with its words and sound."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pqm_plugin.report.tables import Results, describe, ordered, plain_label

_PLACES = re.compile(r"@(TITLE|HASH|DATA|SCRIPT)@")
Steps = Sequence[int | Sequence[str]]
"""A hypothesis beside its reference: how many words are right, ("S", word), ("D",) or ("I", word), in order."""


@dataclass(frozen=True)
class Shown:
    """An utterance: its name, speaker and reference, the steps of each system in the page's order, and its audio.

    `audio` is ("o", base64 of Ogg/Opus), ("l", a link), or None.
    """

    id: str
    speaker: str
    ref: str
    hyps: Sequence[Steps]
    audio: tuple[str, str] | None = None


@dataclass(frozen=True)
class Viewed:
    """What is shown of one results file.

    Attributes:
        intervals: by speaker and system the ends of the interval of the WER, fractions; empty where they are not known.
        utterances: none where the decodes are not there.
        audio: a sentence of where the sound is.
        figures: by its text for those who do not see it, the SVG file of a figure.
    """

    heading: str
    results: Results
    labels: Sequence[str] = ()
    intervals: Mapping[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)
    utterances: Sequence[Shown] = ()
    audio: str = ""
    figures: Mapping[str, Path] = field(default_factory=dict)


def render_viewer(title: str, views: Sequence[Viewed]) -> str:
    """The page as text: self-contained, with nothing loaded from elsewhere but audio that it links; no text is markup.

    The same input gives the same page.
    """
    here = Path(__file__)
    script = here.with_suffix(".js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    data = json.dumps({"sections": [_section(view) for view in views]}, ensure_ascii=False, separators=(",", ":"))
    found = {
        "TITLE": html.escape(title),
        "HASH": f"sha256-{digest}",
        # What ends a script, or begins a comment in one, cannot be written in it otherwise.
        "DATA": data.replace("<", "\\u003c"),
        "SCRIPT": script,
    }
    return _PLACES.sub(lambda place: found[place[1]], here.with_suffix(".html").read_text(encoding="utf-8"))


def _section(view: Viewed) -> dict[str, Any]:
    systems = ordered(view.results["systems"])
    return {
        "heading": view.heading,
        "labels": [plain_label([label]) for label in view.labels],
        "about": _about(view.results["meta"]),
        "systems": [_system(key, view.results["systems"][key]) for key in systems],
        "speakers": _speakers(view, systems),
        "figures": [{"alt": alt, "src": _svg(path)} for alt, path in view.figures.items() if path.is_file()],
        "utterances": [_without_none(asdict(one)) for one in view.utterances],
        "audio": view.audio,
    }


def _without_none(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if value is not None}


def _about(meta: Mapping[str, Any]) -> str:
    kept = ("set", "base", "commit", "seed", "date", "hardware")
    return ", ".join(f"{name} {meta[name]}" for name in kept if meta.get(name) is not None)


def _system(key: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: entry.get(name) for name in ("wer", "ci95", "wer_normalized", "cer", "rtf")}
    size = (entry.get("model_bytes") or 0) + (entry.get("adapter_bytes") or 0)
    return {"key": key, "what": describe(key), **kept, "ci95": list(entry["wer_ci95"]), "bytes": size or None}


def _speakers(view: Viewed, systems: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    everyone = view.results["systems"]
    for name, first in everyone[systems[0]]["speakers"].items():
        found = {}
        for key in systems:
            wer = everyone[key]["speakers"][name]["wer"]
            low, high = view.intervals.get(name, {}).get(key, (wer, wer))
            found[key] = [wer, low, high]
        rows.append({"name": name, "words": first["words"], "systems": found})
    return rows


def _svg(path: Path) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode()
