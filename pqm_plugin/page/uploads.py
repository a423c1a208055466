"""Recordings that a user brings along, with their texts where there are some."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pqm_plugin.errors import PqmError
from pqm_plugin.page.desk import Reading
from pqm_plugin.personal.recordings import find_recordings


@contextmanager
def laid_together(files: Sequence[Path], transcripts: Path | None) -> Iterator[list[Reading]]:
    """Yield the recordings among `files` and their texts, as `pqm enroll` finds them in one folder.

    Args:
        files: one at least: recordings, and texts of the same name ending in `.txt`; each lies in a folder of its own.
        transcripts: lines of a recording's name and its words, see `personal.recordings.find_recordings`.

    Raises:
        PqmError: if two files have one name, or none is a recording.
    """
    # Beside an upload, where the page keeps what it deletes.
    with tempfile.TemporaryDirectory(prefix="together_", dir=files[0].parent) as scratch:
        for file in files:
            target = Path(scratch) / file.name
            if target.exists():
                raise PqmError(f"two of the files are named {file.name}: give each a name of its own")
            shutil.copyfile(file, target)
        try:
            found = find_recordings([Path(scratch)], transcripts)
        except PqmError as error:
            raise PqmError(_without_folders(str(error), scratch, transcripts)) from error
        yield [
            Reading(path, found.texts[place] if found.texts is not None else None)
            for place, path in enumerate(found.paths)
        ]


def _without_folders(words: str, scratch: str, transcripts: Path | None) -> str:
    """Folders of the page mean nothing to its users."""
    if transcripts is not None:
        words = words.replace(str(transcripts), transcripts.name)
    return words.replace(f"{scratch}/", "").replace(scratch, "the upload")
