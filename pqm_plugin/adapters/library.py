"""What this project calls of peft, imported without the compiler that bitsandbytes loads for it."""

from pqm_plugin.imports import quick_imports

with quick_imports():
    from peft import LoraConfig, LoraModel, PeftModel, get_peft_model
    from peft.tuners.lora import LoraLayer

__all__ = ["LoraConfig", "LoraLayer", "LoraModel", "PeftModel", "get_peft_model"]
