"""What this project calls of ESPnet, imported in a quarter of the usual time."""

from pqm_plugin.imports import quick_imports

with quick_imports():
    from espnet2.bin.asr_inference import Speech2Text
    from espnet2.layers.create_adapter import create_adapter

__all__ = ["Speech2Text", "create_adapter"]
