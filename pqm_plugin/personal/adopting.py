"""Take an adapter that plain PEFT made on the float model, and keep it as a speaker of a personal model."""

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pqm_plugin.adapters.files import AdapterInfo, check_adapter, write_info
from pqm_plugin.adapters.lora import parameter_counts
from pqm_plugin.adapters.options import WEIGHTS
from pqm_plugin.adapters.plain import base_of, rewrite
from pqm_plugin.errors import PqmError
from pqm_plugin.files import exclusive, sha256, whole_folder
from pqm_plugin.models.families import fetch_base
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.personal.folder import SPEAKERS, ModelFolder, is_adapter
from pqm_plugin.personal.opening import open_packed

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Adopted:
    """Where the adapter is now, how many parameters it has, and whether its base is known to be the model's own."""

    folder: Path
    parameters: int
    base_checked: bool


def adopt(model: str | Path, adapter: Path, speaker: str, base: str = "") -> Adopted:
    """Keep the LoRA in the PEFT folder `adapter` as the speaker `speaker` of a personal model.

    Args:
        base: the float model that the adapter was trained on: a folder, or a name of the hub. Its weights must be those
            that the personal model was packed from. Without it, the folder that the adapter names is looked at, if it
            is on this machine; else nothing but the layers' names and shapes is checked, and the log says so.

    Raises:
        PqmError: if the adapter is not a LoRA that fits the model, is of another base, or the speaker is there.
    """
    folder = ModelFolder.of(model)
    target = folder.speaker(speaker)
    if is_adapter(target):
        raise PqmError(f"{target} is there already: choose another name, or remove it first")
    named = base_of(adapter)
    checked = _check_base(folder, base or (named if Path(named).is_dir() and named else ""))
    if not checked:
        _log.warning(
            "%s: whether its base (%s) is the model that %s was packed from is not checked: give --base to check it",
            *(adapter, named or "not named", folder.path),
        )
    opened = open_packed(folder, SearchOptions(), mode="small")
    _, n_base = parameter_counts(opened.recognizer.network)
    with (
        exclusive(folder.path / SPEAKERS / f".{speaker}.lock", "another speaker name"),
        whole_folder(target) as scratch,
    ):
        n_adapter = rewrite(adapter, opened.recognizer.network, scratch)
        request = {"adopted": sha256(adapter / WEIGHTS), "base_checked": checked}
        write_info(scratch, AdapterInfo(opened.sha256, speaker, n_adapter, n_base, 0, request))
        check_adapter(scratch)
    return Adopted(target, n_adapter, checked)


def _check_base(folder: ModelFolder, base: str) -> bool:
    """Compare the float weights of `base` with those that the model was packed from; False where there is no base."""
    if not base:
        return False
    recorded = str(folder.meta().get("request", {}).get("base_sha256", ""))
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "base"
        family = fetch_base(base, out)
        found = sha256(family.weights_file(out))
    if found != recorded:
        raise PqmError(
            f"{base} is another model than the one that {folder.path} was packed from (sha256 {found[:12]}…, recorded "
            f"is {recorded[:12]}…): quantize {base} and adopt the adapter there"
        )
    return True
