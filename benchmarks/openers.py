"""The model as benchmarks open it: stock ESPnet, float weights here, or packed ones as the recipe packs them."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.common import CONFIG
from pqm_plugin.engine.packing import open_float, open_packed, pack
from pqm_plugin.errors import PqmError
from pqm_plugin.models.espnet import folder as espnet_folder
from pqm_plugin.models.families import family_of, libraries
from pqm_plugin.models.interface import Recognizer
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.quantize.layers import quantize_layers
from pqm_plugin.stages.config import load_config
from pqm_plugin.stages.quantize import KEEP, packing_of

if TYPE_CHECKING:
    from espnet2.bin.asr_inference import Speech2Text


def import_stock() -> Any:
    """ESPnet's own inference, imported as its users import it.

    To be called before one of ours is opened, which imports it without typeguard: ESPnet is then quicker.
    """
    from espnet2.bin.asr_inference import Speech2Text

    return Speech2Text


def import_ours(model: Path) -> None:
    """The libraries that this package loads for the model, now instead of when it is opened."""
    for name in libraries(model):
        import_module(name)


def stock(model: Path, search: SearchOptions, device: str, dtype: str = "float32") -> "Speech2Text":
    """ESPnet's own inference, as its users call it."""
    with espnet_folder.config_file(model) as config:
        return import_stock()(
            str(config),
            str(espnet_folder.weights_file(model)),
            device=device,
            dtype=dtype,
            beam_size=search.beam_size,
            ctc_weight=search.ctc_weight,
        )


def opened(model: Path, search: SearchOptions, device: str, mode: str = "full") -> Recognizer:
    """The float model here (`full`), or its weights packed as the recipe does without calibration, in a mode."""
    recognizer = family_of(model).load_float(model, search, device)
    if mode != "full":
        packed(recognizer, mode)
        recognizer.network.to(device)
    return ready(recognizer, model, search)


def packed(recognizer: Recognizer, mode: str = "exact") -> None:
    """Pack what the recipe packs, each weight rounded to its nearest level."""
    packing = packing_of(load_config(CONFIG).quantize)
    quantize_layers(recognizer.network, list(packing.kinds(recognizer, KEEP)), packing.weight_format, mode)


def packed_folder(model: Path, out: Path) -> int:
    """Write the model in 4 bits as the recipe does, and give the bytes of its float32 weights."""
    out.mkdir()
    family = family_of(model)
    recognizer = family.load_float(model, SearchOptions(), "cpu")
    float_bytes = sum(4 * parameter.numel() for parameter in recognizer.network.parameters())
    pack(family, recognizer, model, out, packing_of(load_config(CONFIG).quantize), KEEP, None)
    return float_bytes


def open_mode(folder: Path, mode: str, search: SearchOptions, device: str) -> Recognizer:
    """The float model (`full`) or the packed one of a folder in a mode, as stage 6 opens them."""
    opened = open_float(folder, search, device) if mode == "full" else open_packed(folder, search, device, mode)
    return ready(opened, folder, search)


def ready(recognizer: Recognizer, model: Path, search: SearchOptions) -> Recognizer:
    """The recogniser of `model` in evaluation.

    Raises:
        PqmError: if the batched search does not fit it.
    """
    recognizer.network.eval()
    if recognizer.max_batch != search.batch_size:
        raise PqmError(f"{model}: the batched search does not fit this model, see the log")
    return recognizer


def texts_of(recognizer: Any, audio: Sequence[np.ndarray], size: int) -> list[str]:
    """Words of each, `size` at a time; of stock ESPnet, which takes one."""
    return [text for text, _ in best_of(recognizer, audio, size)]


def best_of(recognizer: Any, audio: Sequence[np.ndarray], size: int) -> list[tuple[str, float]]:
    """The same with their scores."""
    if not hasattr(recognizer, "recognize"):
        return [(best[0], float(best[3].score)) for best in (recognizer(samples)[0] for samples in audio)]
    batches = (audio[start : start + size] for start in range(0, len(audio), size))
    return [(found.text, found.score) for batch in batches for found in recognizer.recognize(batch)]
