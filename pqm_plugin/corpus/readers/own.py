"""A corpus of the user's own: a Kaldi data folder, a table, or folders of audio and text named by speaker."""

import os
from collections.abc import Iterator
from pathlib import Path

from pqm_plugin.corpus.names import COMPANION_ENDINGS, is_audio_name, join_first, suggest
from pqm_plugin.corpus.readers._folders import read_folders, speaker_folders
from pqm_plugin.corpus.readers._kaldi import read_kaldi
from pqm_plugin.corpus.readers._table import read_table
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError

WHOLE = "own"
"""Name of the one set of a corpus that is a single folder or table."""
_FORMS = "a Kaldi data folder (wav.scp, text, utt2spk), a table of path, text, speaker, or a folder for each speaker"


def read(corpus: Path, set_name: str) -> Iterator[Utterance]:
    """Yield the utterances of the set `own`, or of one Kaldi folder among several; bad lines carry their `problem`.

    Raises:
        PqmError: if the set is not there, or a whole file cannot be read.
    """
    sets = available_sets(corpus)
    if set_name not in sets:
        raise PqmError(f"{corpus} has no set {set_name!r} ({suggest(set_name, sets)}): name it with --target_set")
    inner = corpus / set_name
    folder = inner if (inner / "wav.scp").is_file() and not (corpus / "wav.scp").is_file() else corpus
    if folder.is_file():
        yield from read_table(folder)
    elif (folder / "wav.scp").is_file():
        yield from read_kaldi(folder)
    else:
        yield from read_folders(folder)


def available_sets(corpus: Path) -> list[str]:
    """Return `own`, or the names of the Kaldi folders where `corpus` holds several.

    Raises:
        PqmError: if `corpus` is none of the three forms, saying what it is instead.
    """
    if not os.path.exists(corpus):
        raise PqmError(f"{corpus} is missing: give with --corpus {_FORMS}")
    if corpus.is_file() or (corpus / "wav.scp").is_file():
        return [WHOLE]
    kaldi = sorted(folder.parent.name for folder in corpus.glob("*/wav.scp"))
    if kaldi:
        return kaldi
    if any(True for _ in speaker_folders(corpus)):
        return [WHOLE]
    loose = any(is_audio_name(path) for path in corpus.iterdir())
    found = "holds recordings that are in no speaker's folder" if loose else "holds no recordings"
    endings = {path.suffix.lower() for path in corpus.rglob("*") if path.is_file()} - {"", *COMPANION_ENDINGS}
    if endings and not loose:
        found += f" of a kind that is known (but files of {join_first(sorted(endings), 5)})"
    raise PqmError(f"{corpus} {found}: give with --corpus {_FORMS}")
