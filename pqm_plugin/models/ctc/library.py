"""The names of transformers that CTC models use, imported on first use."""

from typing import TYPE_CHECKING

from pqm_plugin.imports import on_demand

if TYPE_CHECKING:
    from transformers import AutoConfig, AutoModelForCTC, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor
    from transformers.utils import logging

__all__ = ["AutoConfig", "AutoModelForCTC", "Wav2Vec2CTCTokenizer", "Wav2Vec2FeatureExtractor", "logging"]
__getattr__ = on_demand({**dict.fromkeys(__all__, "transformers"), "logging": "transformers.utils"})
