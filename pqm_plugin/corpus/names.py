"""Suggestions for a misspelt name, and how recordings are named."""

import difflib
import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from pqm_plugin.errors import PqmError

AUDIO_ENDINGS = (
    *(
        ".wav",
        ".wave",
        ".flac",
        ".ogg",
        ".oga",
        ".opus",
        ".spx",
        ".mp3",
        ".mp2",
        ".sph",
        ".aiff",
        ".aif",
        ".aifc",
        ".au",
        ".snd",
    ),
    *(".caf", ".w64", ".rf64", ".m4a", ".m4b", ".mp4", ".m4v", ".mov", ".3gp", ".3gpp", ".3g2", ".aac", ".amr", ".awb"),
    *(".webm", ".weba", ".mka", ".mkv", ".wma", ".asf", ".wmv", ".avi", ".flv", ".ape", ".wv", ".tta", ".ac3", ".shn"),
)
"""Endings by which recordings are found in folders; what a file is, its content tells."""

COMPANION_ENDINGS = (
    *(".txt", ".json", ".csv", ".tsv", ".md", ".xml", ".lab", ".textgrid", ".eaf", ".stm", ".ctm", ".trn", ".srt"),
)
"""Endings of what lies beside recordings and is none."""


def suggest(name: str, known: Iterable[str], limit: int = 3) -> str:
    """Return the known names nearest to `name`, or the first ones when none is near, as words for an error line."""
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=limit, cutoff=0.6)
    if near:
        return "nearest: " + ", ".join(near)
    if not names:
        return "there are none"
    return "there are: " + ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def join_first(names: Iterable[str], limit: int = 10) -> str:
    """Join the first names for a line of text, saying how many more there are."""
    listed = list(names)
    return ", ".join(listed[:limit]) + (f" and {len(listed) - limit} more" if len(listed) > limit else "")


def nfc(name: str) -> str:
    """Return a name in the form of Unicode in which names are compared; macOS writes files in another one."""
    return unicodedata.normalize("NFC", name)


def on_disk(path: Path) -> Path:
    """Return the path of what is there under this name, written in whatever normalisation of Unicode, or `path` itself.

    Raises:
        PqmError: if two files differ from `path` in nothing but normalisation, and neither is spelled as it is.
    """
    if path.name.isascii() and str(path).isascii() or os.path.lexists(path) or path.parent == path:
        return path
    parent = on_disk(path.parent)
    try:
        found = [name for name in os.listdir(parent) if nfc(name) == nfc(path.name)]
    except OSError:
        return path
    if len(found) > 1 and path.name not in found:
        raise PqmError(
            f"{path}: {len(found)} files have this name and differ only in Unicode normalisation: rename one"
        )
    return parent / (path.name if path.name in found else found[0]) if found else path


def is_audio_name(path: Path) -> bool:
    """Say whether a path is named like a recording; what begins with a dot is a leaving of some copying tool."""
    return path.suffix.lower() in AUDIO_ENDINGS and not path.name.startswith(".")
