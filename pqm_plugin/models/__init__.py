"""The only folder that knows ESPnet: model families behind one small interface."""

from pqm_plugin.models.espnet_train import train_base
from pqm_plugin.models.families import FAMILIES, family_of, fetch_base
from pqm_plugin.models.interface import Family, Hypothesis, Loss, Recognizer, SearchOptions, StockDecode

__all__ = [
    "FAMILIES",
    "Family",
    "Hypothesis",
    "Loss",
    "Recognizer",
    "SearchOptions",
    "StockDecode",
    "family_of",
    "fetch_base",
    "train_base",
]
