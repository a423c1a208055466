"""The page of benchmarks: from files to words, in whole processes."""

from typing import Any

from benchmarks.shown import Results, spread_of
from pqm_plugin.report.tables import table

GOALS = (
    ("whisper", "clips", "onnx", "peer", "seconds", 1.0),
    ("whisper", "clips", "onnx", "peer", "peak_bytes", 0.75),
    ("whisper", "short", "onnx, context clip", "peer", "seconds", 0.35),
    ("whisper", "alone", "onnx", "torch", "processor_s", 0.15),
    ("conformer", "alone", "onnx", "torch", "seconds", 0.7),
    ("conformer", "alone", "onnx", "torch", "peak_bytes", 0.15),
    ("conformer", "alone", "onnx", "torch", "processor_s", 0.15),
)
"""Each: kind of model, what is heard, by which way, over which, of which number, and what the share is at most."""
_NUMBERS = {"seconds": "time", "processor_s": "processor time", "peak_bytes": "peak memory"}


def hearing(found: Results | None) -> str:
    """Whole processes through ONNX Runtime, through torch and of a peer, with goals; nothing without results."""
    if found is None:
        return ""
    meta = found["meta"]
    heard = "; ".join(f"{part}: {of['clips']}, {of['seconds']:g} s" for part, of in found["sets"].items())
    about = (
        f"## From files to words\n\n`pqm transcribe` of clips of real readers ({heard}); each way is a process of its "
        f"own, from the command to the words, which take turns, {meta['turns']} of them, on {meta['threads']} "
        f"thread{'s' if meta['threads'] > 1 else ''}. Peak memory is what the system saw of the process; errors by "
        "Whisper's English normaliser; ours are the peers' weights in 4 bits. From `hear.py`, by "
        f"`{meta['command']}` at commit `{meta['commit']}`, {meta['date']}, {meta['hardware']}.\n\n"
    )
    heads = ("model", "heard", "by", "seconds", "processor s", "peak MB", "errors", "words")
    rows = [
        [f"`{name}`", part, way, *_row(one)]
        for name, model in found["models"].items()
        for part, ways in model["sets"].items()
        for way, one in ways.items()
    ]
    return about + table(heads, rows, text_columns=3) + "\n" + _goals(found)


def _row(one: dict[str, Any]) -> list[str]:
    errors = [str(one["errors"]), str(one["words"])]
    return [spread_of(one["seconds"], 2), spread_of(one["processor_s"], 2), str(one["peak_mb"]), *errors]


def _goals(found: Results) -> str:
    rows = []
    for name, model in found["models"].items():
        for kind, part, way, over, number, most in GOALS:
            if kind == model["kind"]:
                other = model["peer"] if over == "peer" else over
                ratio = model["sets"][part][way]["over"][other][number]
                met = "yes" if ratio["median"] <= most else "no"
                what = f"`{name}`, {part}, {way}: {_NUMBERS[number]} of {other}"
                rows.append([what, spread_of(ratio, 2), f"<= {most:g}", met])
    return "As shares of what others take:\n\n" + table(("share", "measured", "goal", "met"), rows)
