"""Which packed models the runtime computes."""

import json
from pathlib import Path
from typing import Any

from pqm_plugin.errors import PqmError
from pqm_plugin.models.espnet import folder as espnet_folder
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.models.whisper.tables import CONFIG
from pqm_plugin.runtime.weights import NotHereError


def open_runtime(folder: Path, search: SearchOptions, *, whole: bool = False, n_threads: int = 0) -> Any:
    """The packed model in `folder` as graphs that ONNX Runtime has taken, with its search.

    Args:
        whole: compute products in float32 instead of 8 bits; those of a Conformer are in float32 in any case.
        n_threads: 0 for as many as there are cores.

    Raises:
        NotHereError: if there are no graphs for such a model.
        PqmError: if its files are damaged, or do not fit one another.
    """
    try:
        if _is_whisper(folder / CONFIG):
            from pqm_plugin.runtime.whisper import RuntimeWhisper

            return RuntimeWhisper(folder, search, whole=whole, n_threads=n_threads)
        if espnet_folder.claims(folder):
            from pqm_plugin.runtime.conformer import RuntimeConformer

            return RuntimeConformer(folder, search, n_threads=n_threads)
        raise NotHereError("models of this family")
    except PqmError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise NotHereError(f"such a model ({reason})") from error


def _is_whisper(config: Path) -> bool:
    try:
        found = json.loads(config.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("model_type") == "whisper"
