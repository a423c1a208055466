"""What our search takes from ESPnet, and a check that ESPnet still provides it."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pqm_plugin.devices import device_of
from pqm_plugin.errors import PqmError
from pqm_plugin.models.espnet import decoder as espnet_decoder
from pqm_plugin.models.espnet import folder as espnet_folder
from pqm_plugin.models.espnet import library as espnet_library
from pqm_plugin.models.espnet.search import BatchedSearch, BeamOptions, Running
from pqm_plugin.models.options import SearchOptions

_SCORERS = {"decoder": None, "ctc": "CTCPrefixScorer", "length_bonus": "LengthBonus"}
_MODEL = ("decoder", "ctc", "encoder", "token_list", "sos", "eos", "blank_id")
_SEARCH = ("weights", "scorers", "beam_size", "pre_beam_size", "do_pre_beam", "sos", "eos", "init_hyp", "search")
# Settings of ESPnet's search that change what is found, and the value of each that ours has.
_FIXED = {"hyp_primer": None, "normalize_length": False, "return_hs": False}
_TRIAL_STEPS = 3
# How far scores may be apart, relatively and in nats, by the rounding of float32.
_APART = (1e-4, 1e-3)
_BEYOND_WINDOW = 16
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
"""How the arguments begin of attentions with a `linear_pos`, see `layers.py:give_each_row_its_positions`."""


class SearchMisfitError(Exception):
    """Why this model, or this version of ESPnet, cannot be searched by `BatchedSearch`."""


def batched_search(speech2text: Any, max_length_ratio: float) -> BatchedSearch:
    """Our search in place of the one that `speech2text` was made with, after a trial of both.

    Raises:
        SearchMisfitError: if the model is of another kind, if ESPnet lacks what is used here, or if the two find
            different scores.
    """
    model: Any = getattr(speech2text, "asr_model", None)
    search: Any = getattr(speech2text, "beam_search", None)
    if reason := _misfit(model, search):
        raise SearchMisfitError(reason)
    weights = {name: search.weights.get(name, 0.0) if name in search.scorers else 0.0 for name in _SCORERS}
    options = BeamOptions(
        beam_size=search.beam_size,
        pre_beam_size=search.pre_beam_size if search.do_pre_beam else 0,
        decoder_weight=weights["decoder"],
        ctc_weight=weights["ctc"],
        length_weight=weights["length_bonus"],
        max_length_ratio=max_length_ratio,
        window_margin=search.scorers["ctc"].window_margin if "ctc" in search.scorers else 0,
        # ESPnet's scorer of prefixes takes 0 whatever the model says.
        blank=0,
        start=search.sos,
        end=search.eos,
    )
    try:
        _try(model, search, options)
    except (AttributeError, TypeError, ValueError, KeyError, IndexError, RuntimeError) as error:
        raise SearchMisfitError(
            f"a trial failed with {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        ) from error
    return BatchedSearch(model, options)


def _misfit(model: Any, search: Any) -> str:
    if type(search).__name__ != "BatchBeamSearch":
        return f"ESPnet searches with {type(search).__name__}, not with BatchBeamSearch"
    for thing, names in ((model, _MODEL), (search, (*_SEARCH, *_FIXED)), (model.ctc, ("log_softmax",))):
        for name in names:
            if not hasattr(thing, name):
                return f"this version of ESPnet has no {type(thing).__name__}.{name}"
    for name, value in _FIXED.items():
        if getattr(search, name) != value:
            return f"its search has {name} {getattr(search, name)!r}"
    if model.blank_id != 0:
        return f"its blank is token {model.blank_id}, not 0"
    return _other_scorer(search) or ("decoder" in search.scorers and espnet_decoder.misfit(model.decoder)) or ""


def _other_scorer(search: Any) -> str:
    for name, scorer in search.scorers.items():
        if name not in _SCORERS or _SCORERS[name] not in (None, type(scorer).__name__):
            return f"its search has a scorer {name} of type {type(scorer).__name__}"
        if name == "ctc" and not hasattr(scorer, "window_margin"):
            return f"this version of ESPnet has no {type(scorer).__name__}.window_margin"
    return ""


@torch.no_grad()
def _try(model: Any, search: Any, options: BeamOptions) -> None:
    """Compare the scores of both searches over a few steps in noise, whatever weights the model has by now."""
    noise = torch.Generator().manual_seed(0)
    n_frames = options.window_margin + _BEYOND_WINDOW
    relative, nats = _APART
    encoded = torch.randn(1, n_frames, model.encoder.output_size(), generator=noise).to(device_of(model))
    theirs = search.init_hyp(encoded[0])
    ours = Running(model, options, encoded, torch.tensor([n_frames], device=encoded.device), _TRIAL_STEPS)
    for step in range(_TRIAL_STEPS):
        theirs = search.search(theirs, encoded[0])
        ours.advance()
        if not torch.allclose(theirs.score, ours.scores[0], rtol=relative, atol=nats):
            gap = float((theirs.score - ours.scores[0]).abs().max())
            raise SearchMisfitError(f"a trial gave scores that differ by {gap:.2g} after {step + 1} tokens")
        if bool((ours.tokens[0, :, -1] == options.end).all()):
            # Neither search goes on from here, and what they would find is no longer the same.
            return


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
        raise PqmError(f"{folder}: no hybrid CTC/attention model; a decoder and a CTC layer are needed")
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
