"""Whisper's library, imported at once, as `models/espnet/loaded.py` imports that of the Conformer."""

from pqm_plugin.models.whisper.library import WhisperForConditionalGeneration

__all__ = ["WhisperForConditionalGeneration"]
