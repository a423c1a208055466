"""What the forms of a user's own corpus share: bad lines, and names made from paths."""

import hashlib
import re
from pathlib import Path

from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError
from pqm_plugin.files import safe_name


def bad(place: str, why: str, utterance: str = "", speaker: str = "") -> Utterance:
    """Return what stands for a line that cannot be used."""
    return Utterance(utterance or "-", speaker or "-", "", "", place=place, problem=why)


class Names:
    """The utterances' names so far, each with the place that gave it."""

    def __init__(self) -> None:
        """Start without a name."""
        self._places: dict[str, str] = {}

    def take(self, name: str, place: str) -> str:
        """Note a name and return it.

        Raises:
            PqmError: if another line has it, or it cannot be a file's name.
        """
        safe_name(name, "utterance")
        if name in self._places:
            raise PqmError(f"{name} is named in {self._places[name]} already: give each utterance a name of its own")
        self._places[name] = place
        return name

    def make(self, speaker: str, path: Path, place: str, ending: str = "") -> str:
        """Make a name from speaker and file, with as many of the folders above as it needs to be a new one."""
        parts = [*path.parts[:-1], path.stem]
        for depth in range(1, len(parts) + 1):
            name = _made(speaker, "-".join(parts[-depth:]), ending)
            if name not in self._places:
                break
        return self.take(name, place)


def _made(speaker: str, stem: str, ending: str) -> str:
    own = stem if re.match(rf"{re.escape(speaker)}[-_.]", stem) else f"{speaker}-{stem}"
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", own)[: 90 - len(ending)]
    if plain != own:  # what was taken out may have been all that told two files apart
        plain = f"{plain[: 81 - len(ending)]}-{hashlib.sha256(own.encode()).hexdigest()[:8]}"
    return plain + ending
