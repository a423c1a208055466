"""What the recogniser takes from ESPnet beside the search and the attention, of which others make trials."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from pqm_plugin.errors import PqmError
from pqm_plugin.models.espnet import folder as espnet_folder
from pqm_plugin.models.espnet import library as espnet_library
from pqm_plugin.models.options import SearchOptions

_PRESENT = {
    "speech2text": ("asr_model", "tokenizer", "converter", "beam_search", "device", "nbest"),
    "asr_model": (
        *("preencoder", "encoder", "postencoder", "decoder", "ctc", "normalize"),
        *("ctc_weight", "ignore_id", "blank_id", "sos", "eos", "token_list", "error_calculator"),
    ),
}
"""Names that must be there, whatever their value: ESPnet sets a part to None that a model lacks."""
_CALLED = {
    "asr_model": {"_extract_feats": 2, "_calc_ctc_loss": 4},
    "criterion_att": {"forward": 2},
    "decoder": {"forward": 4},
    "tokenizer": {"text2tokens": 1, "tokens2text": 1},
    "converter": {"tokens2ids": 1, "ids2tokens": 1},
    "ctc": {"argmax": 1, "log_softmax": 1},
}
"""Methods, some of them private to ESPnet, and how many arguments they are given."""
_POSITIONS = ("query", "key", "value", "pos")
"""How the arguments begin of attentions with a `linear_pos`, see `espnet_layers.give_each_row_its_positions`."""


def build(folder: Path, search: SearchOptions, device: str) -> Any:
    """ESPnet's `Speech2Text` of the configuration in `folder`, its weights still to be loaded.

    Raises:
        PqmError: if the configuration builds no hybrid model with a tokeniser, or ESPnet lacks what is used of it.
    """
    with espnet_folder.config_file(folder) as config:
        try:
            made = espnet_library.Speech2Text(
                config,
                None,
                device=device,
                beam_size=search.beam_size,
                ctc_weight=search.ctc_weight,
                penalty=search.length_bonus,
                maxlenratio=search.max_length_ratio,
            )
        except MemoryError:
            raise
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise PqmError(f"{folder}: its configuration builds no model ({reason}): fetch or make it again") from error
    check_borrowed(made)
    if getattr(made.asr_model, "decoder", None) is None or getattr(made.asr_model, "ctc", None) is None:
        raise PqmError(f"{folder}: no hybrid CTC/attention model; this family needs a decoder and a CTC layer")
    if made.tokenizer is None:
        path = folder / espnet_folder.CONFIG
        raise PqmError(f"{path} names no tokeniser: give its token_type (char, word, …), or bpemodel for type bpe")
    return made


def check_borrowed(speech2text: Any) -> None:
    """See that this ESPnet has all that is used of it here, before anything is computed.

    Raises:
        PqmError: for the first name that it has no more, or that is called otherwise.
    """
    for lacking in _lacking(speech2text):
        raise PqmError(f"this version of ESPnet has no {lacking}: install a version that this package was made for")


def _lacking(speech2text: Any) -> Iterator[str]:
    model = getattr(speech2text, "asr_model", None)
    parts = {name: getattr(speech2text, name, None) for name in ("tokenizer", "converter")}
    parts |= {"speech2text": speech2text, "asr_model": model}
    parts |= {name: getattr(model, name, None) for name in ("criterion_att", "decoder", "ctc")}
    for part, names in _PRESENT.items():
        yield from (f"{type(parts[part]).__name__}.{name}" for name in names if not hasattr(parts[part], name))
    for part, methods in _CALLED.items():
        for name, n_arguments in methods.items():
            # A model without a decoder or a CTC layer is refused for that.
            if parts[part] is not None and not _takes(getattr(parts[part], name, None), n_arguments):
                yield f"{type(parts[part]).__name__}.{name} of {n_arguments} arguments"
    yield from _attentions(model)


def _takes(method: Any, n_arguments: int) -> bool:
    try:
        inspect.signature(method).bind(*range(n_arguments))
    except TypeError:
        return False
    return True


def _attentions(model: nn.Module | None) -> Iterator[str]:
    for module in model.modules() if model is not None else ():
        if hasattr(module, "linear_pos"):
            found = list(inspect.signature(type(module).forward).parameters)[1:]
            if not all(one.startswith(name) for one, name in zip(found, _POSITIONS, strict=False)):
                yield f"{type(module).__name__}.forward of {', '.join(_POSITIONS)}"
