"""Which file tells a model's family, and what imports the family's library; needs no library to be read."""

ESPNET_CONFIG = "config.yaml"
WHISPER_CONFIG = "config.json"
LOADED = {ESPNET_CONFIG: "pqm_plugin.models.espnet.loaded", WHISPER_CONFIG: "pqm_plugin.models.whisper.loaded"}
"""By the file that a model's folder has, the module that imports at once what the model is computed with."""
