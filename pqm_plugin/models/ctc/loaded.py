"""transformers' CTC models, imported at once: what processes share that are forked from one which has done it."""

from pqm_plugin.models.ctc.library import AutoModelForCTC, Wav2Vec2CTCTokenizer

__all__ = ["AutoModelForCTC", "Wav2Vec2CTCTokenizer"]
