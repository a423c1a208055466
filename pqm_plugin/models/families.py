"""The model families, and which one a folder or a name belongs to."""

from pathlib import Path

from pqm_plugin.errors import PqmError
from pqm_plugin.models.ctc.model import CtcFamily
from pqm_plugin.models.espnet.model import EspnetFamily
from pqm_plugin.models.foreign import describe
from pqm_plugin.models.interface import Family
from pqm_plugin.models.whisper.model import WhisperFamily

FAMILIES: tuple[Family, ...] = (WhisperFamily(), CtcFamily(), EspnetFamily())
"""A new family is a folder beside this file, whose `model.py` has a class of `Family`, and its entry here.

Sources are offered to them in this order; ESPnet takes any name for one of its model zoo.
"""


def family_of(folder: Path) -> Family:
    """The family of the model in `folder`, float or packed.

    Raises:
        PqmError: if no family claims the folder.
    """
    for family in FAMILIES:
        if family.claims(folder):
            return family
    if what := describe(str(folder)):
        raise PqmError(f"{folder} is {what}")
    known = ", ".join(family.NAME for family in FAMILIES)
    raise PqmError(f"{folder} holds no model of a supported family ({known}): run stage 2 (base), or check --base")


def family_named(name: str) -> Family:
    """The family that `--family` calls `name`.

    Raises:
        PqmError: if there is none.
    """
    known = {family.KEY: family for family in FAMILIES}
    if name not in known:
        raise PqmError(f"--family {name}: there is no such model family; known: {', '.join(known)}")
    return known[name]


def files_elsewhere(folder: Path) -> list[str]:
    """Files outside of `folder` that its configuration names; a model that is handed on has none."""
    return [name for family in FAMILIES if family.claims(folder) for name in family.files_elsewhere(folder)]


def source_files(folder: Path) -> list[Path]:
    """The files of the weights in a folder that `--base` names, which need not be in the form that a base has here.

    Raises:
        PqmError: if no family knows the folder.
    """
    found = next((files for family in FAMILIES if (files := family.source_files(folder))), [])
    return found or [family_of(folder).weights_file(folder)]


def is_float_model(folder: Path) -> bool:
    """Whether `folder` looks like a model that can be packed."""
    try:
        return any(family.claims(folder) or family.source_files(folder) for family in FAMILIES)
    except PqmError:
        return False


def libraries(*folders: Path) -> list[str]:
    """What workers import, see `Family.LIBRARY`, for the models in these folders; for all families without a model."""
    found = [family for family in FAMILIES if any(family.claims(folder) for folder in folders)]
    return [name for family in found or FAMILIES for name in family.LIBRARY]


def fetch_base(source: str, out: Path) -> Family:
    """Bring the model that `source` names into the new folder `out`.

    Raises:
        PqmError: if no family knows `source`.
    """
    for family in FAMILIES:
        if family.fetch(source, out):
            return family
    if what := describe(source):
        raise PqmError(f"--base {source} is {what}")
    raise PqmError(
        f"--base {source}: no model of a supported family ({', '.join(family.NAME for family in FAMILIES)}); "
        "give a model's folder, a packed file, its name on a hub, or 'train'"
    )
