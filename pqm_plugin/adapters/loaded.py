"""peft, imported at once, as `pqm_plugin/models/espnet/loaded.py` imports ESPnet."""

from pqm_plugin.adapters.library import PeftModel

__all__ = ["PeftModel"]
