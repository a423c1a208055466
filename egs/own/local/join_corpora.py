#!/usr/bin/env python3
"""Write several corpora as Kaldi folders below one folder, so that one recipe has targets of one and SAT of the others.

    join_corpora.py OUT NAME=CORPUS [NAME=CORPUS ...]

CORPUS is a table, a Kaldi data folder or a folder for each speaker, as `--corpus` of egs/own; or a set's folder of
LibriSpeech's layout, such as LibriSpeech/train-clean-5. OUT/NAME is a set: `--corpus OUT --target_set NAME`.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from pqm_plugin.corpus.kaldi import write_data_folder
from pqm_plugin.corpus.readers import librispeech, own
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError


def read_one(name: str, corpus: Path) -> list[Utterance]:
    """Return what can be used of a corpus; what cannot is said on standard error.

    Raises:
        PqmError: if it is no corpus of these forms, or nothing of it can be used.
    """
    usable = []
    for utterance in _found(corpus.resolve()):
        problem = utterance.problem or ("" if utterance.audio else "no audio") or ("" if utterance.text else "no text")
        if problem:
            print(f"{name}: {utterance.place or utterance.utterance} is left out: {problem}", file=sys.stderr)
        else:
            usable.append(utterance)
    if not usable:
        raise PqmError(f"{corpus}: nothing of it can be used")
    return usable


def _found(corpus: Path) -> Iterator[Utterance]:
    if any(corpus.glob("*/*/*.trans.txt")):
        return librispeech.read(corpus.parent, corpus.name)
    (only, *others) = own.available_sets(corpus)
    if others:
        raise PqmError(f"{corpus} has several sets: name one of its folders")
    return own.read(corpus, only)


def main(arguments: list[str] | None = None) -> None:
    """Write the folders and say how much each has."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("corpora", nargs="+", metavar="NAME=CORPUS")
    options = parser.parse_args(arguments)
    for each in options.corpora:
        name, equals, corpus = each.partition("=")
        if not equals or not name or name != Path(name).name or name.startswith("."):
            parser.error(f"{each!r}: give NAME=CORPUS, NAME one folder's name")
        utterances = read_one(name, Path(corpus))
        write_data_folder(options.out / name, utterances)
        speakers = {utterance.speaker for utterance in utterances}
        print(f"{options.out / name}: {len(utterances)} utterances of {len(speakers)} speakers")


if __name__ == "__main__":
    try:
        main()
    except PqmError as error:
        sys.exit(f"join_corpora.py: {error}")
