"""ESPnet, imported at once: what processes share that are forked from one which has done it."""

from pqm_plugin.models.espnet.library import Speech2Text

__all__ = ["Speech2Text"]
