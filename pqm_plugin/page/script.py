"""How far a new speaker is in reading."""

from dataclasses import dataclass, replace
from pathlib import Path

from pqm_plugin.errors import PqmError
from pqm_plugin.page.desk import Reading


@dataclass(frozen=True)
class Kept:
    """A sentence that was read: as it was said, where the recording is, and how many seconds it lasts."""

    text: str
    path: Path
    duration_s: float


@dataclass(frozen=True)
class Script:
    """Sentences to read, which of them is the next, and what was kept; every step gives a new one."""

    sentences: tuple[str, ...]
    place: int = 0
    kept: tuple[Kept, ...] = ()

    @property
    def sentence(self) -> str:
        """The next sentence; empty behind the last, where a reader may go on with words of their own."""
        return self.sentences[self.place] if self.place < len(self.sentences) else ""

    @property
    def where(self) -> str:
        """The place in words."""
        if self.sentence:
            return f"Sentence {self.place + 1} of {len(self.sentences)}"
        return "All sentences are read: learn the voice, or write and say more of your own"

    def keep(self, kept: Kept) -> "Script":
        """The next sentence, this one kept.

        Raises:
            PqmError: if it has no words.
        """
        if not kept.text.strip():
            raise PqmError("there are no words with this recording: write what you said")
        return replace(self.skip(), kept=(*self.kept, kept))

    def skip(self) -> "Script":
        """The next sentence, this one not read."""
        return replace(self, place=min(self.place + 1, len(self.sentences)))

    def take_back(self) -> "Script":
        """Without what was kept last, whose sentence comes again if it is one of the script's.

        Raises:
            PqmError: if nothing is kept.
        """
        if not self.kept:
            raise PqmError("nothing is kept yet that could be taken back")
        last = self.kept[-1].text
        place = self.sentences.index(last) if last in self.sentences else self.place
        return replace(self, place=place, kept=self.kept[:-1])

    def readings(self) -> list[Reading]:
        """What can be learned from.

        Raises:
            PqmError: if nothing is kept.
        """
        if not self.kept:
            raise PqmError("nothing is kept yet: record a sentence, then “Keep it and go on”")
        return [Reading(kept.path, kept.text) for kept in self.kept]
