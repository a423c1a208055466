"""Learn the voice of a speaker from recordings, with transcripts or without."""

import argparse
from pathlib import Path
from typing import Any

from pqm_plugin.commands.options import add_channel, add_computing, add_language, add_model, set_threads


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_model(parser)
    parser.add_argument("recordings", type=Path, nargs="+", metavar="RECORDINGS", help="folder of recordings, or files")
    parser.add_argument("--speaker", required=True, metavar="NAME", help="whose voice it is: A-Z a-z 0-9 . _ -")
    parser.add_argument(
        "--transcripts",
        type=Path,
        metavar="FILE",
        help="lines of a recording's name and its words, as Kaldi's `text`; default: a .txt beside each recording, "
        "and if there is none, the model learns from the words that it is sure of",
    )
    parser.add_argument("--unsupervised", action="store_true", help="heed no transcripts, even where there are some")
    parser.add_argument("--epochs", type=int, help="most passes over the recordings")
    parser.add_argument("--learning_rate", "--learning-rate", type=float, help="step size of the first pass")
    parser.add_argument("--rank", type=int, help="of an adapter that starts from zero")
    parser.add_argument(
        "--min_confidence", "--min-confidence", type=float, help="from 0 to 1: of own words that are learned from"
    )
    parser.add_argument(
        "--target_style",
        "--target-style",
        metavar="STYLE",
        help="of the texts learned: auto, corpus as they are, or "
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


def run(parsed: argparse.Namespace) -> int:
    """Find recordings and words, learn, and say from how much."""
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
