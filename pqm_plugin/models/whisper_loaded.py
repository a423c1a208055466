"""Whisper's library, imported at once, as `espnet_loaded.py` imports that of the Conformer."""

from pqm_plugin.models.whisper_library import WhisperForConditionalGeneration

__all__ = ["WhisperForConditionalGeneration"]
