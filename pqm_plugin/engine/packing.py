"""Pack a float base in 4 bits, rounding to nearest levels or by calibration; open float and packed models."""

import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from pqm_plugin.errors import PqmError
from pqm_plugin.files import sha256
from pqm_plugin.models.families import family_of
from pqm_plugin.models.interface import Family, Recognizer
from pqm_plugin.models.language import AUTO
from pqm_plugin.models.networks import threads
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.processes import freed_memory_returned
from pqm_plugin.quantize.checkpoint import load_packed, save_packed
from pqm_plugin.quantize.gptq import listen, round_layers
from pqm_plugin.quantize.layers import measure, quantize_layers, weights_of
from pqm_plugin.quantize.modes import PACKED
from pqm_plugin.quantize.packed import WeightFormat

Speech = Callable[[Recognizer], Iterable[tuple[Tensor, Tensor]]]
"""Gives, one utterance after another, features (T, D) and tokens (U,) for a recogniser, to calibrate on."""


@dataclass(frozen=True)
class Packing:
    """How a base is packed: the format of a weight, the type of what is not quantised, and layer kinds left in it."""

    weight_format: WeightFormat
    rest_dtype: str
    keep: Sequence[str] = ()

    def kinds(self, recognizer: Recognizer, option: str) -> dict[str, str]:
        """Kind of every layer that is quantised, by name.

        Raises:
            PqmError: if `keep` names a kind that the model does not have; the message begins with `option`.
        """
        kinds = recognizer.layer_kinds()
        known = set(kinds.values())
        unknown = sorted(set(self.keep) - known)
        if unknown:
            raise PqmError(f"{option} {unknown[0]}: no layer is of this kind; there are {', '.join(sorted(known))}")
        return {name: kind for name, kind in kinds.items() if kind not in self.keep}


def pack(
    family: Family, recognizer: Recognizer, base: Path, out: Path, packing: Packing, option: str, speech: Speech | None
) -> dict[str, Any]:
    """Quantise a float recogniser in place, and write its packed weights and side files into the folder `out`.

    Args:
        recognizer: of the float model in the folder `base`.
        option: what the user calls `packing.keep`.
        speech: to calibrate on; None rounds each weight to its nearest level.

    Returns:
        What was measured, as it stands in `meta.json` behind the request.

    Raises:
        PqmError: if `packing.keep` names an unknown kind, or there is no speech to calibrate on.
    """
    kinds = packing.kinds(recognizer, option)
    before = weights_of(recognizer.network, kinds)
    if speech is None:
        quantize_layers(recognizer.network, list(kinds), packing.weight_format)
    else:
        round_by(recognizer, list(kinds), packing.weight_format, speech)
    for path in family.side_files(base):
        shutil.copyfile(path, out / path.name)
    packed = out / PACKED
    save_packed(packed, recognizer.network, packing.rest_dtype, recognizer.built_in)
    # Loading it back now means that nobody meets a file that cannot be read.
    load_packed(packed, family.load_skeleton(out, SearchOptions(language=AUTO), "cpu").network)
    size, base_size = packed.stat().st_size, family.weights_file(base).stat().st_size
    return {
        "family": family.NAME,
        **measure(recognizer.network, kinds, before),
        "size_bytes": size,
        "sha256": sha256(packed),
        "base_size_bytes": base_size,
        "ratio": base_size / size,
    }


def round_by(recognizer: Recognizer, names: Sequence[str], weight_format: WeightFormat, speech: Speech) -> None:
    """Quantise the named layers of a float recogniser in place, so that what they compute on speech changes least.

    The same speech gives the same bits: sums of float32 depend on how many threads share them, so one computes.
    """
    with threads(1):
        network = recognizer.network.eval()
        calls = (partial(recognizer.loss, [features], [tokens]) for features, tokens in speech(recognizer))
        round_layers(network, names, weight_format, listen(network, names, calls))


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
