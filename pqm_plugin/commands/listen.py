"""`pqm listen`: dictation from the microphone, or from what stands in its place."""

import argparse
import json
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from pqm_plugin.commands.options import add_computing, add_language, add_model, add_runtime

_START_OF_LINE = "\r\x1b[K"


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_model(parser)
    parser.add_argument(
        "--speaker", metavar="NAME", help="who speaks; default: anyone (the adapter `sat` if there is one)"
    )
    parser.add_argument("--plain", action="store_true", help="without any adapter")
    parser.add_argument(
        "--input",
        "-i",
        metavar="FILE",
        help="a recording in place of the microphone, or - for a WAV that comes through standard input, such as "
        "`arecord -t wav -f S16_LE -r 16000 | pqm listen MODEL -i -`",
    )
    parser.add_argument(
        "--microphone", metavar="NAME", help="number or part of the name, see `python -m sounddevice`; default: yours"
    )
    parser.add_argument(
        "--format",
        choices=("text", "json"),
        default="text",
        help="text: a line a piece, and on a terminal what it is so far; json: an object a line, those of unfinished "
        "pieces as well",
    )
    parser.add_argument("--pause", type=float, default=0.7, metavar="SECONDS", help="of silence end a piece (0.7)")
    parser.add_argument("--longest", type=float, default=20, metavar="SECONDS", help="of a piece (20)")
    parser.add_argument(
        "--partial", type=float, default=1, metavar="SECONDS", help="new words so often within a piece (1); 0: never"
    )
    add_runtime(parser)
    add_language(parser)
    add_computing(parser)


def run(parsed: argparse.Namespace) -> int:
    """Write down what is spoken into the microphone, while it is spoken.

    Ctrl-C ends it, with what is being spoken at that moment; a second one does not wait for these words.
    """
    from pqm_plugin.personal.folder import ModelFolder

    folder = ModelFolder.of(parsed.model)
    if parsed.speaker is not None:
        folder.known_speaker(parsed.speaker)

    from pqm_plugin.personal.dictation import Pauses, dictate
    from pqm_plugin.personal.runtime import open_hearing

    shows_partial = parsed.format == "json" or sys.stdout.isatty()
    pauses = Pauses(parsed.pause, parsed.longest, parsed.partial if shows_partial else 0).check()
    model = open_hearing(parsed.model, None, parsed.device, parsed.language, parsed.runtime, parsed.threads)
    show = _as_json if parsed.format == "json" else _as_text
    with _sound(parsed, model.sample_rate) as sound, _until_ctrl_c() as is_over:
        if parsed.input is None:
            print("listening; Ctrl-C ends", file=sys.stderr, flush=True)
        for spoken in dictate(model, sound, parsed.speaker, plain=parsed.plain, pauses=pauses, is_over=is_over):
            show(spoken)
    return 0


def _sound(parsed: argparse.Namespace, sample_rate: int) -> Any:
    from pqm_plugin.corpus.live import from_file, from_pipe, microphone

    if parsed.input is None:
        device = parsed.microphone
        return microphone(sample_rate, int(device) if device is not None and device.isdecimal() else device)
    return from_pipe(sample_rate) if parsed.input == "-" else nullcontext(from_file(parsed.input, sample_rate))


@contextmanager
def _until_ctrl_c() -> Iterator[Any]:
    """Whether Ctrl-C was pressed; a second time it is as it always is."""
    pressed: list[int] = []

    def note(number: int, _: Any) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


def _as_json(spoken: Any) -> None:
    found = {
        "text": spoken.text,
        "start_s": round(spoken.start_s, 2),
        "end_s": round(spoken.end_s, 2),
        "confidence": round(spoken.confidence, 4),
        "is_final": spoken.is_final,
        "adapter": spoken.adapter,
    }
    print(json.dumps(found), flush=True)


def _as_text(spoken: Any) -> None:
    """A line for a piece that is over; on a terminal the line is there before, and is written over."""
    start = _START_OF_LINE if sys.stdout.isatty() else ""
    if spoken.is_final:
        print(f"{start}{spoken.text}" if spoken.text else start, end="\n" if spoken.text else "", flush=True)
        return
    most = shutil.get_terminal_size().columns - 1
    text = spoken.text if len(spoken.text) <= most else f"…{spoken.text[1 - most :]}"
    print(f"{start}{text}", end="", flush=True)
