"""What the files of a packed model are called; needs no library to be read."""

PACKED = "model.safetensors"
META = "meta.json"
"""What is recorded of the packed model, beside it."""

MODES = ("exact", "fast", "small")
"""How packed weights are computed with, see `layers.install`."""
