"""Handlers of the page's buttons: they return HTML, or raise `PqmError`."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pqm_plugin.errors import PqmError
from pqm_plugin.page import markup
from pqm_plugin.page.desk import Desk, Reading, load_within
from pqm_plugin.page.script import Kept, Script
from pqm_plugin.personal.facts import adapter_facts, facts
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


Show = Callable[[float, str], None]
"""Shows how far something is, in [0, 1], and what it is."""

ANYONE = ""
_STEPS = {"before": "Hearing it as anyone's", "after": "Hearing it as {name}'s"}
_ENROLLING = {
    "listening": "Listening to {name}: {done} of {total} recordings",
    "learning": "Learning the voice of {name}: {done} of at most {total} steps",
}


class Events:
    """The page's doings, without the page."""

    def __init__(self, desk: Desk, sentences: tuple[str, ...]) -> None:
        self._desk = desk
        self._sentences = sentences

    def script(self) -> Script:
        """Nothing read yet."""
        return Script(self._sentences)

    def speakers(self) -> list[tuple[str, str]]:
        """Whom one can choose: what is shown, and the value behind it."""
        return [("Anyone", ANYONE), *((name, name) for name in self._desk.folder.speakers())]

    def facts(self) -> str:
        """Sizes, as they are now."""
        return markup.model(facts(self._desk.folder))

    def hear(self, speaker: str, recording: str | None, show: Show) -> str:
        """Both transcripts of a recording; for `ANYONE`, one.

        Raises:
            PqmError: see `Desk.compare`, and if there is no recording.
        """
        if not recording:
            raise PqmError("there is no recording: record something, or drop a file")

        def watch(step: str, part: float) -> None:
            half = 1.0 if speaker == ANYONE else 0.5
            show(half * part + (0.5 if step == "after" else 0.0), _STEPS[step].format(name=speaker))

        return markup.comparison(self._desk.compare(Path(recording), speaker or None, watch))

    def keep(self, script: Script, text: str, recording: str | None) -> Script:
        """Keep what was read, with the words that were said.

        Raises:
            PqmError: if there is no recording, no text, or the recording cannot be trained on.
        """
        if not recording:
            raise PqmError("there is no recording: press the microphone, read, and press stop")
        rate = self._desk.sample_rate
        samples = load_within(Path(recording), rate, self._desk.limits.clip_s)
        return script.keep(Kept(" ".join(text.split()), Path(recording), len(samples) / rate))

    def read_so_far(self, script: Script) -> str:
        """What is kept."""
        return markup.readings([(kept.text, kept.duration_s) for kept in script.kept])

    def learn_script(self, user: str, name: str, anew: bool, script: Script, show: Show) -> str:
        """Enrol from what was read.

        Raises:
            PqmError: see `Desk.enroll`, and if nothing was read.
        """
        return self._learn(user, name, anew, script.readings(), show)

    def learn_uploads(
        self, user: str, name: str, anew: bool, files: Sequence[str] | None, transcripts: str | None, show: Show
    ) -> str:
        """Enrol from files that were dropped.

        Raises:
            PqmError: see `Desk.enroll` and `uploads.laid_together`, and if there are none.
        """
        if not files:
            raise PqmError("there are no recordings: drop some first")
        with laid_together([Path(file) for file in files], Path(transcripts) if transcripts else None) as readings:
            return self._learn(user, name, anew, readings, show)

    def _learn(self, user: str, name: str, anew: bool, readings: Sequence[Reading], show: Show) -> str:
        def watch(step: str, done: int, total: int) -> None:
            show(done / max(1, total), _ENROLLING[step].format(name=name, done=done, total=total))

        told: list[str] = []
        done = self._desk.enroll(user, name, readings, anew=anew, watch=watch, warn=told.append)
        return markup.notes(told) + markup.enrolled(done, adapter_facts(done.folder))

    def stop(self, user: str) -> str:
        """What to say when stop is pressed."""
        return "It stops after this step." if self._desk.stop(user) else "Nothing of yours is being learned."
