"""The page of benchmarks: from files to words, in whole processes."""

from typing import Any

from benchmarks.shown import Results, spread_of
from pqm_plugin.report.tables import table

GOALS = (
    ("whisper", "clips", "peer", "seconds", "time of faster-whisper", 1.0),
    ("whisper", "clips", "peer", "peak_bytes", "peak memory of faster-whisper", 0.75),
    ("conformer", "alone", "torch", "seconds", "time through torch", 0.7),
    ("conformer", "alone", "torch", "peak_bytes", "peak memory through torch", 0.15),
    ("conformer", "alone", "torch", "processor_s", "processor time through torch", 0.15),
    ("whisper", "alone", "torch", "processor_s", "processor time through torch", 0.15),
)
"""Each: kind of model, what is heard, ours over what, of which number, in words, and what it is at most."""
_SETS = {"clips": "all clips", "alone": "one clip"}


def hearing(found: Results | None) -> str:
    """Whole processes through ONNX Runtime, through torch and of a peer, with goals; nothing without results."""
    if found is None:
        return ""
    meta = found["meta"]
    about = (
        f"## From files to words\n\n`pqm transcribe` of {found['clips']} clips, {found['speech_s']:g} s of speech, and "
        f"of one of {found['alone_s']:.1f} s alone; each way is a process of its own, from the command to the words, "
        f"which take turns, {meta['turns']} of them, on {meta['threads']} thread{'s' if meta['threads'] > 1 else ''}. "
        "Memory is the largest that the system saw of the process; errors by Whisper's English normaliser. From "
        f"`hear.py`, by `{meta['command']}` at commit `{meta['commit']}`, {meta['date']}, {meta['hardware']}.\n\n"
    )
    heads = ("model", "heard", "by", "seconds", "processor s", "peak MB", "errors", "words")
    rows = [
        [f"`{name}`", _SETS[part], way, *_row(model[part][way])]
        for name, model in found["models"].items()
        for part in _SETS
        for way in ("onnx", "torch", model["peer"])
    ]
    return about + table(heads, rows, text_columns=3) + "\n" + _goals(found)


def _row(one: dict[str, Any]) -> list[str]:
    errors = [str(one["errors"]), str(one["words"])]
    return [spread_of(one["seconds"], 2), spread_of(one["processor_s"], 2), str(one["peak_mb"]), *errors]


def _goals(found: Results) -> str:
    rows = []
    for name, model in found["models"].items():
        for kind, part, over, number, what, most in GOALS:
            if kind == model["kind"]:
                way = model["peer"] if over == "peer" else over
                ratio = model[part][way]["ours_over_it"][number]
                met = "yes" if ratio["median"] <= most else "no"
                rows.append([f"`{name}`, {_SETS[part]}: {what}", spread_of(ratio, 2), f"<= {most:g}", met])
    return "Ours through ONNX Runtime, as a share:\n\n" + table(("share of", "measured", "goal", "met"), rows)
