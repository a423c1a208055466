#!/usr/bin/env python3
"""Draw the figure and the table of docs/when_it_pays.md: what one's own adapter brings, from stored results."""

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pqm_plugin.files import read_json, write_text
from pqm_plugin.report.figures import bare, figure, head_inch, headline
from pqm_plugin.report.tables import number, table

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/when_it_pays.md"
FIGURE = ROOT / "docs/images/when_it_pays.svg"
_BLOCK = re.compile(r"(?<=<!-- table: tools/when_it_pays.py -->\n\n).*?(?=<!-- end of table -->)", re.S)
_NATIVE = {"results.json": "native readers", "results_device.json": "native readers, a device and a room"}
_KINDS = {
    "usc_ema": "native readers with coils on tongue and lips",
    "common_voice": "accents of many kinds",
    "speechocean762": "Mandarin speakers, eight sentences to learn from",
}
_COLOURS = ("#0969DA", "#8250DF", "#CF222E", "#BF8700", "#1A7F37")
_MARKERS = {"ESPnet AED": "o", "Whisper": "^"}
_LABEL = "One point a speaker and base; word errors of the test utterances, of Whisper after its English normaliser"


@dataclass(frozen=True)
class Speaker:
    """Word errors of one speaker by one base: full precision, 4 bits for everybody, 4 bits with the own adapter."""

    kind: str
    family: str
    base: str
    name: str
    words: int
    full: int
    everybody: int
    own: int

    @property
    def wer(self) -> float:
        """Of the full-precision base, in percent."""
        return 100 * self.full / self.words

    @property
    def gain(self) -> float | None:
        """Fewer errors than full precision, in percent; None where that makes none."""
        return 100 * (self.full - self.own) / self.full if self.full else None


def speakers() -> list[Speaker]:
    """Everybody who was measured, in the order of the pages."""
    found: list[Speaker] = []
    for file, kind in _NATIVE.items():
        found += _of(read_json(ROOT / "egs/librispeech" / file), kind)
    for path in sorted((ROOT / "egs/own").glob("results_*.json")):
        results = read_json(path)
        if results["meta"]["set"] in _KINDS and "nf4+speaker" in results["systems"]:
            found += _of(results, _KINDS[results["meta"]["set"]])
    return found


def _of(results: dict[str, Any], kind: str) -> Iterator[Speaker]:
    systems, meta = results["systems"], results["meta"]
    everybody = systems.get("nf4+sat", systems["nf4"])
    normalized = meta["family"] == "Whisper"
    errors, words = ("errors_normalized", "words_normalized") if normalized else ("errors", "words")
    for name, full in systems["full"]["speakers"].items():
        counts = [one["speakers"][name][errors] for one in (systems["full"], everybody, systems["nf4+speaker"])]
        yield Speaker(kind, meta["family"], meta["base"], name, full[words], *counts)


def draw(found: Sequence[Speaker], path: Path) -> None:
    """Gain over full precision against the base's WER, a point a speaker."""
    width, height = 7.2, 4.6
    top = head_inch(_LABEL, width)
    kinds = list(dict.fromkeys(one.kind for one in found))
    with figure(path, width, height) as drawn:
        headline(drawn, "What one's own adapter brings, by how hard a speaker is for the base", _LABEL, 0.7)
        axes = drawn.add_axes((0.7 / width, 0.55 / height, 1 - 0.9 / width, 1 - (top + 0.6) / height))
        bare(axes)
        axes.axhline(0, color="#6E7781", linewidth=0.8)
        for kind, colour in zip(kinds, _COLOURS, strict=False):
            for family, marker in _MARKERS.items():
                some = [one for one in found if (one.kind, one.family) == (kind, family) and one.gain is not None]
                if some:
                    axes.plot(
                        [one.wer for one in some],
                        [one.gain for one in some],
                        marker=marker,
                        linestyle="none",
                        color=colour,
                        markeredgecolor="white",
                        label=f"{kind}, {'Conformer' if family == 'ESPnet AED' else family}",
                    )
        axes.set_xlabel("WER % of the full-precision base")
        axes.set_ylabel("fewer errors than full precision, %")
        axes.legend(fontsize=7, frameon=False, loc="lower right")


def summary(found: Sequence[Speaker]) -> str:
    """By kind of speaker and base: word errors before and after, and how many speakers were helped."""
    groups = dict.fromkeys((one.kind, one.base) for one in found)
    rows = []
    for kind, base in groups:
        some = [one for one in found if (one.kind, one.base) == (kind, base)]
        words = sum(one.words for one in some)
        full, everybody, own = (sum(getattr(one, key) for one in some) for key in ("full", "everybody", "own"))
        rows.append(
            [
                kind,
                f"`{base}`",
                str(len(some)),
                *(number(100 * errors / words, 1) for errors in (full, everybody, own)),
                number(100 * (full - own) / full, 1),
                number(100 * (everybody - own) / everybody, 1),
                f"{sum(one.own < one.everybody for one in some)} of {len(some)}",
            ]
        )
    head = ("speakers", "base", "number", "full precision", "4 bits, one adapter for everybody", "own adapter")
    tail = ("fewer errors than full precision, %", "than everybody's adapter, %", "helped by the own over everybody's")
    return table((*head, *tail), rows)


def drawn_page(page: str, found: Sequence[Speaker]) -> str:
    """The text of the page with its table drawn anew."""
    return _BLOCK.sub(lambda _: f"{summary(found).strip()}\n\n", page)


if __name__ == "__main__":
    everybody = speakers()
    draw(everybody, FIGURE)
    write_text(PAGE, drawn_page(PAGE.read_text(encoding="utf-8"), everybody))
