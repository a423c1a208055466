"""Bring a personal model's packed weights into memory; the folder may be a stranger's."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pqm_plugin.devices import free_bytes
from pqm_plugin.engine import opening as engine
from pqm_plugin.errors import PqmError
from pqm_plugin.models.families import family_of, files_elsewhere
from pqm_plugin.models.interface import Recognizer
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.personal.budget import at_most_bytes
from pqm_plugin.personal.folder import ModelFolder
from pqm_plugin.quantize.modes import pick_mode

# A byte of a packed file holds two weights, of which each is four bytes in memory; then buffers, twice for safety.
_MEMORY_FACTOR = 32
_MEMORY_SLACK_BYTES = 512 * 2**20
_WEIGHTS_A_BYTE = 2


@dataclass(frozen=True)
class Opened:
    """A recogniser in memory, and the hash of the packed file that it is from."""

    recognizer: Recognizer
    sha256: str


def open_packed(folder: ModelFolder, search: SearchOptions, device: str = "cpu", mode: str = "exact") -> Opened:
    """Load the packed base, in evaluation mode; where `search.guard` is `auto`, its words are guarded.

    Raises:
        PqmError: if the weights are not those of the record, or the configuration is not theirs: it names files
            elsewhere, asks for far more memory than they need, or builds no model.
    """
    found = folder.intact()
    family_of(folder.path)
    if search.guard == "auto":
        search = replace(search, guard="always")
    _refuse(folder, files_elsewhere(folder.path))
    budget = folder.packed.stat().st_size * _MEMORY_FACTOR + _MEMORY_SLACK_BYTES
    try:
        recognizer = engine.open_packed(folder.path, search, device, mode, at_most_bytes(budget))
    except PqmError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise PqmError(
            f"{folder.path}: its configuration builds no model ({reason}): fetch or make it again"
        ) from error
    return Opened(recognizer, found)


def mode_for(folder: ModelFolder, device: str) -> str:
    """The mode that suits a device and what is free on it now; the log says which and why."""
    # The size of the file, for a record may say anything.
    n_weights = _WEIGHTS_A_BYTE * folder.packed.stat().st_size
    picked = pick_mode(n_weights, free_bytes(device))
    logging.info("mode auto: %s, for %s on %s", picked.mode, picked.reason, device)
    return picked.mode


def _refuse(folder: ModelFolder, elsewhere: Sequence[str]) -> None:
    if elsewhere:
        raise PqmError(
            f"{folder.path}: its configuration names {elsewhere[0]!r}, which is outside of it: only a model whose "
            "files lie together is opened"
        )
