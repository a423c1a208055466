"""The names of ESPnet that are used here, imported on first use and in a quarter of the usual time."""

from typing import TYPE_CHECKING

from pqm_plugin.imports import on_demand

if TYPE_CHECKING:
    from espnet2.bin.asr_inference import Speech2Text
    from espnet2.layers.create_adapter import create_adapter

__all__ = ["Speech2Text", "create_adapter"]
# transformers takes longer than all the rest. ESPnet has it for parts of Hugging Face; `folder.py` refuses models
# that have such.
__getattr__ = on_demand(
    {"Speech2Text": "espnet2.bin.asr_inference", "create_adapter": "espnet2.layers.create_adapter"},
    without=("transformers",),
)
