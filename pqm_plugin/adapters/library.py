"""The names of peft that are used here, imported on first use: decoding does not need it."""

from typing import TYPE_CHECKING

from pqm_plugin.imports import on_demand

if TYPE_CHECKING:
    from peft import LoraConfig, LoraModel, PeftModel, get_peft_model
    from peft.tuners.lora import LoraLayer

__all__ = ["LoraConfig", "LoraLayer", "LoraModel", "PeftModel", "get_peft_model"]
__getattr__ = on_demand(
    {
        **dict.fromkeys(("LoraConfig", "LoraModel", "PeftModel", "get_peft_model"), "peft"),
        "LoraLayer": "peft.tuners.lora",
    }
)
