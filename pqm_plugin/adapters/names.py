"""What the files of an adapter are called; needs no library to be read."""

INFO = "pqm.json"
"""Which base an adapter was made for, and how."""
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
OWN_WEIGHTS = "weights.safetensors"
"""What a speaker has who has no adapter in PEFT's format, see `own.py`."""
