"""Layers of a Whisper model by their names: kinds, LoRA presets."""

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from pqm_plugin.errors import PqmError

_KINDS = (
    (r"model\.encoder\.conv\d", "encoder_conv"),
    (r"model\.encoder\.layers\.\d+\.self_attn\..*", "encoder_attention"),
    (r"model\.encoder\.layers\.\d+\.fc\d", "encoder_feed_forward"),
    (r"model\.decoder\.embed_tokens", "embedding"),
    (r"proj_out", "output"),
    (r"model\.decoder\.layers\.\d+\.self_attn\..*", "decoder_attention"),
    (r"model\.decoder\.layers\.\d+\.encoder_attn\..*", "cross_attention"),
    (r"model\.decoder\.layers\.\d+\.fc\d", "decoder_feed_forward"),
)
_ATTENTION = r"model\..*\.(self_attn|encoder_attn)\."
_PRESETS = {
    "qv": _ATTENTION + "[qv]_proj",
    "attention": _ATTENTION + "(q|k|v|out)_proj",
    "all_linear": r"model\.(encoder|decoder)\.layers\..*",
    "all_linear_and_conv": r"model\.(encoder|decoder)\.(layers\..*|conv\d)",
}


def layer_kinds(network: nn.Module) -> Mapping[str, str]:
    """Kind of every layer with a matrix, by its name in `network`; positions and normalisations are none."""
    found = {
        name: kind
        for name, _ in network.named_modules(remove_duplicate=False)
        for kind in [next((kind for pattern, kind in _KINDS if re.fullmatch(pattern, name)), None)]
        if kind is not None
    }
    if "proj_out" in found and getattr(getattr(network, "config", None), "tie_word_embeddings", True):
        # One weight under two names.
        found["proj_out"] = "embedding"
    return found


def adapter_targets(network: nn.Module, preset: str) -> list[str]:
    """Full names of the layers of a LoRA preset.

    With adapters on convolutions, `generate` of plain transformers wants `conv1.stride` and `conv2.stride` set.

    Raises:
        PqmError: if there is no such preset.
    """
    if preset not in _PRESETS:
        raise PqmError(f"LoRA targets {preset!r}: use one of {', '.join(_PRESETS)}, or a list of layer names")
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv1d) and re.fullmatch(_PRESETS[preset], name)
    ]


def show_strides(encoder: Any) -> None:
    """transformers asks the convolutions for their strides, which peft's wrapping of them hides."""
    for layer in (encoder.conv1, encoder.conv2):
        if not hasattr(layer, "stride"):
            layer.stride = layer.base_layer.stride
