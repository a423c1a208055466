"""The command `pqm transcribe`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from pqm_plugin.commands.options import add_channel, add_computing, add_language, add_model, add_runtime
from pqm_plugin.errors import PqmError
from pqm_plugin.files import write_text
from pqm_plugin.personal.transcript import FORMATS, LONGEST_S, Transcript, srt_entry

_THRESHOLDS = {
    "compression_ratio_threshold": "of the guard: a text that zlib makes smaller by more repeats itself (default: 2.4)",
    "logprob_threshold": "of the guard: a text of less, in nats a token, is not trusted (default: -1)",
    "no_speech_threshold": "of the guard: above it, what is not trusted is silence (default: 0.6; Whisper)",
}
_ENDINGS = {"text": ".txt", "json": ".json", "srt": ".srt"}


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_model(parser)
    parser.add_argument(
        "audio", nargs="+", metavar="AUDIO", help="FLAC, WAV, MP3, Ogg, m4a, webm, …, or - for standard input"
    )
    parser.add_argument(
        "--speaker", metavar="NAME", help="who speaks; default: anyone (the adapter `sat` if there is one)"
    )
    parser.add_argument(
        "--words",
        type=Path,
        metavar="FILE",
        help="names and terms to expect, one a line, beside those that `pqm words` keeps with the speaker",
    )
    parser.add_argument("--plain", action="store_true", help="without any adapter")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="text",
        help="text: a line a recording, as grep names files; json: an object a line",
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write a file for each recording there instead")
    parser.add_argument(
        "--longest", type=float, metavar="SECONDS", help="cut at silence into at most this (default: 30; srt: 8)"
    )
    parser.add_argument("--beam_size", "--beam-size", type=int, help="hypotheses that are kept")
    parser.add_argument("--ctc_weight", "--ctc-weight", type=float, help="share of the CTC score in [0, 1] (ESPnet)")
    parser.add_argument(
        "--guard",
        choices=("auto", "always", "never"),
        help="search again, then cut, what repeats itself or is made up where nobody speaks (default: the maker's, "
        "or always)",
    )
    parser.add_argument(
        "--context",
        choices=("window", "clip"),
        help="what Whisper encodes: its whole window of 30 s, or of a clip what is spoken, in a fraction of the time "
        "(default: the maker's, or window); an adapter is used with the context that it learned on only",
    )
    for name, what in _THRESHOLDS.items():
        parser.add_argument(f"--{name}", f"--{name.replace('_', '-')}", type=float, help=what)
    add_runtime(parser)
    add_channel(parser)
    add_language(parser)
    add_computing(parser)


def run(parsed: argparse.Namespace) -> int:
    """Write down what is said in recordings, as it is found."""
    targets = _targets(parsed)
    from pqm_plugin.personal.folder import ModelFolder

    folder = ModelFolder.of(parsed.model)
    if parsed.speaker is not None:
        folder.known_speaker(parsed.speaker)
    words = _words(parsed.words, folder)

    from pqm_plugin.personal.runtime import open_hearing

    search = _search(parsed, folder.about())
    model = open_hearing(parsed.model, search, parsed.device, parsed.language, parsed.runtime, parsed.threads)
    failed = 0
    for audio, target in zip(parsed.audio, targets, strict=True):
        try:
            _one(model, audio, target, parsed, words)
        except PqmError as error:
            print(f"pqm transcribe: {error}", file=sys.stderr)
            failed += 1
    return 1 if failed else 0


def _words(path: Path | None, folder: Any) -> Any:
    """The list, if there is one, that the model can be told."""
    if path is None:
        return None
    from pqm_plugin.personal.own_words import check_words
    from pqm_plugin.words import read_words

    words = read_words(path)
    check_words(folder, words, str(path))
    return words


def _search(parsed: argparse.Namespace, about: Any) -> Any:
    from pqm_plugin.personal.options import search_options
    from pqm_plugin.settings import over

    names = ("beam_size", "ctc_weight", "guard", "context", *_THRESHOLDS)
    given = {name: getattr(parsed, name) for name in names}
    if not 0 <= (given["ctc_weight"] or 0) <= 1:
        raise PqmError("--ctc_weight is from 0 to 1")
    return over(search_options(about), given)


def _targets(parsed: argparse.Namespace) -> list[Path | None]:
    """The file of each recording, None for standard output."""
    if parsed.out is None:
        if parsed.format == "srt" and len(parsed.audio) > 1:
            raise PqmError("subtitles of several recordings: give --out FOLDER for a file each")
        return [None] * len(parsed.audio)
    stems = ["stdin" if audio == "-" else Path(audio).stem for audio in parsed.audio]
    targets: list[Path | None] = [parsed.out / f"{stem}{_ENDINGS[parsed.format]}" for stem in stems]
    for place, target in enumerate(targets):
        if target in targets[:place]:
            raise PqmError(f"{parsed.audio[place]}: two recordings would be written to {target}: transcribe them apart")
    return targets


def _how(parsed: argparse.Namespace, words: Any) -> dict[str, Any]:
    longest_s = parsed.longest or LONGEST_S[parsed.format]
    return {"plain": parsed.plain, "longest_s": longest_s, "channel": parsed.channel, "words": words}


def _one(model: Any, audio: str, target: Path | None, parsed: argparse.Namespace, words: Any) -> None:
    if target is None and parsed.format != "json":
        _as_it_comes(model, audio, parsed, words)
        return
    found: Transcript = model.transcribe(audio, parsed.speaker, **_how(parsed, words))
    encoding = "utf-8" if target else sys.stdout.encoding
    text = {"text": f"{found.text}\n", "json": f"{found.as_json(encoding)}\n", "srt": found.as_srt()}[parsed.format]
    if target is None:
        print(text, end="", flush=True)
    else:
        write_text(target, text)


def _as_it_comes(model: Any, audio: str, parsed: argparse.Namespace, words: Any) -> None:
    """Each stretch is written as soon as it is known: words on one line, or subtitles."""
    found = model.segments(audio, parsed.speaker, **_how(parsed, words))
    spoken = (segment for segment in found if segment.text)
    if parsed.format == "srt":
        for number, segment in enumerate(spoken, start=1):
            print(srt_entry(number, segment), end="", flush=True)
        return
    name = f"{audio}\t" if len(parsed.audio) > 1 else ""
    lead = name
    try:
        for segment in spoken:
            print(f"{lead}{segment.text}", end="", flush=True)
            lead = " "
    except PqmError:
        if lead == " ":
            print(flush=True)
        raise
    print("" if lead == " " else name, flush=True)
