"""Load a model into memory, float or packed, ready to recognise."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from pqm_plugin.models.families import family_of
from pqm_plugin.models.interface import Recognizer
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.processes import freed_memory_returned
from pqm_plugin.quantize.checkpoint import load_packed
from pqm_plugin.quantize.modes import PACKED


def open_float(folder: Path, search: SearchOptions, device: str = "cpu") -> Recognizer:
    """The full-precision model in `folder`, in evaluation mode.

    Raises:
        PqmError: if no family knows the folder, or its weights do not fit its configuration.
    """
    recognizer = family_of(folder).load_float(folder, search, device)
    recognizer.network.eval()
    return recognizer


def open_packed(
    folder: Path,
    search: SearchOptions,
    device: str = "cpu",
    mode: str = "exact",
    bound: AbstractContextManager[object] | None = None,
) -> Recognizer:
    """The packed model in `folder`, in evaluation mode.

    Args:
        mode: how packed weights are kept and multiplied, see `quantize.layers.install`.
        bound: entered while the network is built; may stop a configuration that asks for too much memory.

    Raises:
        PqmError: if no family knows the folder, or its weights do not fit its configuration.
    """
    with bound or nullcontext(), freed_memory_returned(from_now_on=mode == "small"):
        recognizer = family_of(folder).load_skeleton(folder, search, "cpu")
        load_packed(folder / PACKED, recognizer.network, mode)
    recognizer.network.to(device)
    recognizer.network.eval()
    return recognizer
