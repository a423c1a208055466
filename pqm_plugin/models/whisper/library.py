"""The names of transformers that Whisper uses, imported on first use."""

from typing import TYPE_CHECKING

from pqm_plugin.imports import on_demand

if TYPE_CHECKING:
    from transformers import (
        GenerationConfig,
        LogitsProcessorList,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperTokenizer,
    )
    from transformers.audio_utils import load_audio
    from transformers.modeling_outputs import BaseModelOutput
    from transformers.models.whisper.modeling_whisper import sinusoids
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

__all__ = [
    "TO_LANGUAGE_CODE",
    "BaseModelOutput",
    "GenerationConfig",
    "LogitsProcessorList",
    "WhisperConfig",
    "WhisperFeatureExtractor",
    "WhisperForConditionalGeneration",
    "WhisperTokenizer",
    "load_audio",
    "sinusoids",
]
__getattr__ = on_demand(
    {
        **dict.fromkeys((name for name in __all__ if name.startswith(("Gen", "Logits", "Whisper"))), "transformers"),
        "BaseModelOutput": "transformers.modeling_outputs",
        "load_audio": "transformers.audio_utils",
        "sinusoids": "transformers.models.whisper.modeling_whisper",
        "TO_LANGUAGE_CODE": "transformers.models.whisper.tokenization_whisper",
    }
)
