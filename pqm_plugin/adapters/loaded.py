"""peft, imported at once, as `pqm_plugin/models/loaded.py` imports the libraries of models."""

from pqm_plugin.adapters.library import PeftModel

__all__ = ["PeftModel"]
