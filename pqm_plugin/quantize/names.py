"""What the files of a packed model are called; needs no library to be read."""

PACKED = "model.safetensors"
META = "meta.json"
"""What is recorded of the packed model, beside it."""
ABOUT = "about.json"
"""What its maker says of a model: licence, source, and the settings that it is used with."""

MODES = ("exact", "fast", "small")
"""How packed weights are computed with, see `layers.install`."""
