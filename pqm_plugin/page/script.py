"""Sentences for a new speaker to read, and how many are read."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pqm_plugin.errors import PqmError
from pqm_plugin.files import decode_text

if TYPE_CHECKING:
    from pqm_plugin.page.desk import Reading

SENTENCES = (
    "The old grey mule would rather chew thick grass than pull the cart.",
    "My younger cousin joined the choir and sang a joyful song.",
    "A measure of treasure lay hidden beneath the garage floor.",
    "Please put five big boxes of fresh fish by the back door.",
    "Those three brothers think that the weather is rather smooth today.",
    "She shut the shop early because the machine had lost its charge.",
    "Our noisy neighbours now allow the hound to howl around the house.",
    "Here is a clear idea of how near the pier you should appear.",
    "The judge urged the jury to turn and return before the third hour.",
    "Boil the oysters in oil, then toss them with a spoonful of soy.",
    "Vivid yellow leaves waved over the quiet village all evening.",
    "We could look at good books while the cook took the pudding out.",
    "Nine hungry pink flamingos were drinking along the river bank.",
    "Did Kate bake the cake, or did Jake make a mistake with the date?",
    "Hot soup, dark toffee and a strong pot of coffee stood on the stove.",
    "He rarely shares his pears, but there was one fair pair to spare.",
    "Twelve twins twirled quickly between the square and the swings.",
    "An unusual vision of azure beaches gave the author such pleasure.",
    "Zebras, lizards and bees were busy in the hazy zoo.",
    "Give us the number four, seven, eight and ninety, then ring again.",
)
"""Written for this page, to have the sounds of English in several neighbourhoods, in words that everybody can read."""

_LONGEST = 300


def read_sentences(path: Path | None) -> tuple[str, ...]:
    """The sentences of a UTF-8 file, one a line, or, without a file, those of `SENTENCES`.

    Raises:
        PqmError: if there is none, or one is too long to be read in a breath or two.
    """
    if path is None:
        return SENTENCES
    try:
        lines = decode_text(path.expanduser().read_bytes(), path).splitlines()
    except OSError as error:
        raise PqmError(f"{path} cannot be read ({error}): give a UTF-8 text of one sentence a line") from None
    found = tuple(" ".join(line.split()) for line in lines if line.strip())
    if not found:
        raise PqmError(f"{path} holds no sentence: write one a line")
    for number, line in enumerate(lines, start=1):
        if len(line) > _LONGEST:
            raise PqmError(f"{path}:{number}: {len(line)} characters are too many to read at once: {_LONGEST} at most")
    return found


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

    def readings(self) -> "list[Reading]":
        """What can be trained on.

        Raises:
            PqmError: if nothing is kept.
        """
        if not self.kept:
            raise PqmError("nothing is kept yet: record a sentence, then “Keep it and go on”")
        from pqm_plugin.page.desk import Reading

        return [Reading(kept.path, kept.text) for kept in self.kept]
