"""The libraries of all families, imported at once: what processes share that are forked from one which has done it."""

from pqm_plugin.models.espnet_library import Speech2Text
from pqm_plugin.models.whisper_library import WhisperForConditionalGeneration

__all__ = ["Speech2Text", "WhisperForConditionalGeneration"]
