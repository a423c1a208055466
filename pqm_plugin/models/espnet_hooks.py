"""Where our search holds on to ESPnet: what it takes from it, and whether that is still what it was."""

from typing import Any

import torch

from pqm_plugin.devices import device_of
from pqm_plugin.models import espnet_decoder
from pqm_plugin.models.espnet_search import BatchedSearch, BeamOptions, Running

_SCORERS = {"decoder": None, "ctc": "CTCPrefixScorer", "length_bonus": "LengthBonus"}
_MODEL = ("decoder", "ctc", "encoder", "token_list", "sos", "eos", "blank_id")
_SEARCH = ("weights", "scorers", "beam_size", "pre_beam_size", "do_pre_beam", "sos", "eos", "init_hyp", "search")
# Settings of ESPnet's search that change what is found, and the value of each that ours has.
_FIXED = {"hyp_primer": None, "normalize_length": False, "return_hs": False}
_TRIAL_STEPS = 3
# How far scores may be apart, relatively and in nats, by the rounding of float32.
_APART = (1e-4, 1e-3)
_BEYOND_WINDOW = 16


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
