"""Commands for the speakers of a model: enrolled from recordings, adopted from other tools, handed to them, listed."""

import argparse
from pathlib import Path
from typing import Any

from pqm_plugin.commands.options import add_channel, add_computing, add_language, add_model, set_threads
from pqm_plugin.errors import PqmError


def add_enroll(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `enroll`."""
    add_model(parser)
    parser.add_argument("recordings", type=Path, nargs="+", metavar="RECORDINGS", help="folder of recordings, or files")
    parser.add_argument("--speaker", required=True, metavar="NAME", help="whose voice it is: A-Z a-z 0-9 . _ -")
    parser.add_argument(
        "--transcripts",
        type=Path,
        metavar="FILE",
        help="lines of a recording's name and its words, as Kaldi's `text`; default: a .txt beside each recording, "
        "and if there is none, the model is trained on the words that it is sure of",
    )
    parser.add_argument("--unsupervised", action="store_true", help="use no transcripts, even where there are some")
    parser.add_argument("--epochs", type=int, help="most passes over the recordings")
    parser.add_argument("--learning_rate", "--learning-rate", type=float, help="step size of the first pass")
    parser.add_argument("--rank", type=int, help="of an adapter that starts from zero")
    parser.add_argument(
        "--min_confidence", "--min-confidence", type=float, help="from 0 to 1: of own words that are trained on"
    )
    parser.add_argument(
        "--target_style",
        "--target-style",
        metavar="STYLE",
        help="of the training texts: auto, corpus as they are, or "
        "model, in the case and punctuation that the model writes; auto: the latter where the texts have neither",
    )
    parser.add_argument(
        "--folds",
        type=int,
        help="blocks of recordings that are held out in turn to see whether the adapter helps "
        "(from ten recordings with texts on): 3, or 0 to leave that out",
    )
    parser.add_argument(
        "--keep",
        help="better: the speaker-independent model, where held-out words get no better (default); own: what "
        "was learned in any case",
    )
    add_channel(parser)
    add_language(parser)
    add_computing(parser)


def run_enroll(parsed: argparse.Namespace) -> int:
    """Enrol a speaker from recordings, with transcripts or without."""
    from pqm_plugin.personal.folder import ModelFolder
    from pqm_plugin.personal.recordings import find_recordings

    # What can be wrong with names is said before anything heavy is loaded.
    folder = ModelFolder.of(parsed.model)
    folder.speaker(parsed.speaker)
    found = find_recordings(parsed.recordings, parsed.transcripts, unsupervised=parsed.unsupervised)

    from pqm_plugin.personal.model import PersonalModel

    set_threads(parsed.threads)
    model = PersonalModel(parsed.model, device=parsed.device, language=parsed.language)
    options = _options(parsed, folder.about())
    done = model.enroll(parsed.speaker, found.paths, found.texts, channel=parsed.channel, options=options)
    print(
        f"{done.speaker}: {'learned from' if done.is_new else 'is there already, from'} {done.n_clips} recordings, "
        f"{done.duration_s / 60:.1f} min: {done.folder}"
    )
    if done.held_out:
        print(f"{done.speaker}: {done.held_out.sentence()}: {_advice(done)}")
    return 0


def _advice(done: Any) -> str:
    """What to make of the held-out words."""
    if not done.keeps_own:
        return "no gain shown, the speaker-independent model is kept"
    if not done.held_out.is_better:
        return "no gain shown: the speaker-independent model does as well"
    return "it pays" if done.held_out.gain_shown else "a gain, but chance could show as much: more recordings tell"


def _options(parsed: argparse.Namespace, about: Any) -> Any:
    from pqm_plugin.personal.options import enroll_options
    from pqm_plugin.settings import over

    names = ("epochs", "learning_rate", "rank", "min_confidence", "target_style", "folds", "keep")
    return over(enroll_options(about), {name: getattr(parsed, name) for name in names})


def add_adopt(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `adopt`."""
    add_model(parser)
    parser.add_argument(
        "adapter", type=Path, metavar="ADAPTER", help="a LoRA: folder of PEFT, or ESPnet experiment or its .pth"
    )
    parser.add_argument("--speaker", required=True, metavar="NAME", help="the speaker's name here: A-Z a-z 0-9 . _ -")
    parser.add_argument(
        "--base",
        default="",
        metavar="MODEL",
        help="the float model that it was trained on, to see that MODEL was packed from it; default: the folder that "
        "the adapter names, if it is here",
    )


def run_adopt(parsed: argparse.Namespace) -> int:
    """Keep an adapter that plain PEFT or ESPnet made as a speaker of the model."""
    from pqm_plugin.personal.exchange import adopt

    done = adopt(parsed.model, parsed.adapter, parsed.speaker, parsed.base)
    base = "its base is the model's own" if done.base_checked else "its base was not checked"
    print(f"{parsed.speaker}: {done.parameters} parameters, {base}: {done.folder}")
    return 0


def add_export(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `export`."""
    add_model(parser)
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder")
    parser.add_argument(
        "--to",
        required=True,
        choices=("huggingface", "faster-whisper", "espnet", "vllm"),
        help="the tool: a model in float32 with the adapter merged, or for vllm the adapter alone",
    )
    parser.add_argument("--speaker", default="", metavar="NAME", help="whose adapter; default: sat, if there is one")
    parser.add_argument("--plain", action="store_true", help="without any adapter")
    parser.add_argument(
        "--base",
        default="",
        metavar="FLOAT",
        help="float model that MODEL was packed from, to merge into; default: the 4-bit weights, unpacked, which give "
        "the words that MODEL gives",
    )


def run_export(parsed: argparse.Namespace) -> int:
    """Write a model with what it learned of a speaker as the folder of another tool."""
    from pqm_plugin.personal.exchange import export

    done = export(parsed.model, parsed.out, parsed.to, parsed.speaker, parsed.base, parsed.plain)
    print(f"{done.folder}: for {parsed.to}; base: {done.base}; adapter: {done.adapter}")
    for note in done.notes:
        print(note)
    return 0


def add_speakers(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `speakers`."""
    add_model(parser)


def run_speakers(parsed: argparse.Namespace) -> int:
    """List the speakers of a model."""
    from pqm_plugin.personal.facts import adapter_facts
    from pqm_plugin.personal.folder import SPEAKERS, ModelFolder

    folder = ModelFolder.of(parsed.model)
    for name in folder.speakers():
        facts = adapter_facts(folder.path / SPEAKERS / name)
        print(f"{name}\t{facts['size_bytes'] / 1e6:.2f} MB\t{facts['learned_from']}")
    return 0


def add_words(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `pqm words`."""
    add_model(parser)
    parser.add_argument(
        "file",
        nargs="?",
        type=Path,
        metavar="FILE",
        help="words or phrases, one a line, after a tab a weight if not 1; they take the place of earlier ones. "
        "Without it, the words that are kept are shown",
    )
    parser.add_argument("--speaker", metavar="NAME", help="whose words they are; without it, how many each speaker has")
    parser.add_argument("--clear", action="store_true", help="forget the speaker's words")


def run_words(parsed: argparse.Namespace) -> int:
    """Keep names and terms with a speaker for the model to expect; show them, clear them, or count those of all."""
    from pqm_plugin.personal.folder import ModelFolder
    from pqm_plugin.words import read_words

    folder = ModelFolder.of(parsed.model)
    if parsed.speaker is None:
        if parsed.file or parsed.clear:
            raise PqmError("words are kept with a speaker: name one with --speaker")
        for name in folder.speakers():
            kept = folder.words_file(name)
            print(f"{name}\t{len(read_words(kept).entries) if kept.is_file() else 0}")
        return 0
    if parsed.file and parsed.clear:
        raise PqmError(f"{parsed.file} and --clear: choose one, FILE takes the place of earlier words")
    if parsed.file or parsed.clear:
        from pqm_plugin.personal.own_words import clear_words, keep_words

        if parsed.clear:
            cleared = clear_words(folder, parsed.speaker)
            print(f"{parsed.speaker}: {'no words any more' if cleared else 'there were no words'}")
        else:
            words = keep_words(folder, parsed.speaker, parsed.file)
            print(f"{parsed.speaker}: {len(words.entries)} words")
        return 0
    found = folder.words(folder.known_speaker(parsed.speaker))
    print(found.text() if found else "", end="")
    return 0
