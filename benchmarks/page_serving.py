"""The page of benchmarks: many callers of the server."""

from typing import Any

from benchmarks.shown import Results
from pqm_plugin.report.tables import table


def serving(found: Results | None) -> str:
    """Callers one at a time, at once and at given rates, then among many who are enrolled; nothing without results."""
    if found is None:
        return ""
    meta, kept = found["meta"], found["keeps_up"]
    words = sum(one["other_words"] for one in [found["at_once"], *found["open_loop"], *found["growth"].values()])
    held = f"p95 {kept[0]['p95_s']:g} s at the {kept[0]['requests_per_s']:g} a second" if kept else "none of the rates"
    about = (
        f"## Many callers of `pqm serve --api`\n\n{found['requests']} requests of {found['speakers']} speakers, each "
        f"with an adapter of its own, {found['speech_s']:g} s of speech; model {found['model']}, {meta['threads']} "
        f"thread{'s' if meta['threads'] > 1 else ''} of the server, whose callers run on the same machine. With "
        f"{found['clients']} callers at once it answers {found['speedup']:g} times as many as one at a time; it keeps "
        f"up with {held}. {_others(words)} From `serve.py`, by `{meta['command']}` at commit `{meta['commit']}`, "
        f"{meta['date']}, {meta['hardware']}.\n\n"
    )
    alone, at_once = found["one_at_a_time"], found["at_once"]
    rows = [
        ["one at a time", *_row(alone), "0"],
        [f"{found['clients']} at once", *_row(at_once), str(at_once["refused"])],
        *(
            [f"at {one['share']:.0%} of that, at random times", *_row(one), str(one["refused"])]
            for one in found["open_loop"]
        ),
    ]
    heads = ("requests", "a second", "median s", "p95 s", "refused")
    return about + table(heads, rows) + "\n" + _growth(found)


def _others(words: int) -> str:
    return f"{words} answers have other words than alone." if words else "Every answer has the words that it has alone."


def _row(one: dict[str, Any]) -> list[str]:
    return [f"{one['requests_per_s']:.2f}", f"{one['median_s']:.2f}", f"{one['p95_s']:.2f}"]


def _growth(found: Results) -> str:
    """What more speakers that are enrolled cost a server that hears as many as before."""
    columns = {
        "requests_per_s": "requests a second",
        "p95_s": "p95 s",
        "models_ms": "`GET /v1/models` ms",
        "rss_mb": "memory MB",
        "start_s": "start s",
    }
    rows = [[f"{int(n):,}", *(f"{one[name]:g}" for name in columns)] for n, one in found["growth"].items()]
    return f"The same requests, {found['clients']} at once, among more who are enrolled:\n\n" + table(
        ("enrolled", *columns.values()), rows
    )
