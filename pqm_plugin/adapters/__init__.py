"""LoRA through peft: attach, train, save, load, switch."""

from pqm_plugin.adapters.files import AdapterInfo, load_adapter, read_info, save_adapter
from pqm_plugin.adapters.lora import attach, parameter_counts, switched_off
from pqm_plugin.adapters.train import Example, TrainOptions, TrainResult, train_adapter

__all__ = [
    "AdapterInfo",
    "Example",
    "TrainOptions",
    "TrainResult",
    "attach",
    "load_adapter",
    "parameter_counts",
    "read_info",
    "save_adapter",
    "switched_off",
    "train_adapter",
]
