"""Folders of training, for all families: read Kaldi lists, claim the output folder, tidy it."""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json, write_json
from pqm_plugin.records import changed


def read_list(path: Path) -> dict[str, str]:
    """Read lines of `utterance value`.

    Raises:
        PqmError: if the file is missing or empty, or a line has no value.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise PqmError(f"{path} is missing: a data folder needs wav.scp and text") from None
    entries = {}
    for number, line in enumerate(lines, start=1):
        utterance, _, value = line.partition(" ")
        if not value.strip():
            raise PqmError(
                f"{path}, line {number}: nothing follows {utterance!r}; give it a value or drop the utterance"
            )
        entries[utterance] = value.strip()
    if not entries:
        raise PqmError(f"{path} is empty: there is nothing to train on")
    return entries


def read_lists(source: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Absolute audio paths and transcripts of a data folder, by utterance.

    Raises:
        PqmError: as `read_list` does, or if the audio is not plain files that are there, or an utterance is in one
            list only.
    """
    audio, texts = read_list(source / "wav.scp"), read_list(source / "text")
    if (source / "segments").exists() or any(path.endswith("|") for path in audio.values()):
        raise PqmError(f"{source}: training reads plain audio files; write segments and pipes out as files first")
    odd = sorted(audio.keys() ^ texts.keys())
    if odd:
        raise PqmError(f"{source}: wav.scp and text differ in {len(odd)} utterances, the first is {odd[0]!r}")
    missing = [path for path in audio.values() if not Path(path).is_file()]
    if missing:
        raise PqmError(f"{source / 'wav.scp'}: {len(missing)} audio files are missing, the first is {missing[0]}")
    return {key: Path(path).absolute() for key, path in audio.items()}, texts


def claim(out: Path, inputs: Mapping[str, Any]) -> None:
    """Note in `out` what it is trained from.

    Raises:
        PqmError: if it was begun with something else.
    """
    note = out / "inputs.json"
    if not note.exists():
        write_json(note, inputs)
    if differing := changed(read_json(note), inputs):
        raise PqmError(f"{out} was trained with another {', '.join(differing)}: delete it, or choose another --expdir")


def digest(entries: Mapping[str, str]) -> str:
    """Hash of a list as its file would be."""
    return hashlib.sha256("".join(f"{key} {value}\n" for key, value in entries.items()).encode()).hexdigest()


def tidy(out: Path, patterns: Sequence[str]) -> None:
    """Remove what training alone needed: the files and folders of `out` that these patterns match."""
    for pattern in patterns:
        for path in out.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
