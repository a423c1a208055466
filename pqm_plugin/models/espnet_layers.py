"""What the layers of an ESPnet encoder-decoder are, by the names that ESPnet gives them."""

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from pqm_plugin.errors import PqmError
from pqm_plugin.forwards import is_replaced

_KINDS = (
    (r"encoder\.embed\.conv\..*", "subsampling_conv"),
    (r"encoder\.embed\..*", "subsampling_linear"),
    (r"encoder\.encoders\.\d+\.(self_attn|attn)\..*", "encoder_attention"),
    (r"encoder\.encoders\.\d+\.feed_forward(_macaron)?\..*", "encoder_feed_forward"),
    (r"encoder\.encoders\.\d+\..*depthwise_conv.*", "depthwise_conv"),
    (r"encoder\.encoders\.\d+\..*pointwise_conv.*", "pointwise_conv"),
    (r"encoder\..*", "encoder_other"),
    (r"decoder\.embed\..*", "embedding"),
    (r"decoder\.output_layer", "output"),
    (r"decoder\.decoders\.\d+\.self_attn\..*", "decoder_attention"),
    (r"decoder\.decoders\.\d+\.src_attn\..*", "cross_attention"),
    (r"decoder\.decoders\.\d+\.feed_forward\..*", "decoder_feed_forward"),
    (r"decoder\..*", "decoder_other"),
    (r"ctc\..*", "ctc"),
)
_QUANTIZABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding)
_ATTENTION = r".*\.(self_attn|src_attn)\.linear_"
_PRESETS = {
    "qv": _ATTENTION + "[qv]",
    "attention": _ATTENTION + "(q|k|v|out)",
    "all_linear": r"(encoder|decoder)\..*",
}
_DECODER_INPUT = ("decoder.embed", "decoder.output_layer")


def layer_kinds(network: nn.Module) -> Mapping[str, str]:
    """Kind of every layer with a matrix, by its name in `network`."""
    return {
        name: kind
        for name, module in network.named_modules()
        if isinstance(module, _QUANTIZABLE)
        for kind in [next((kind for pattern, kind in _KINDS if re.fullmatch(pattern, name)), None)]
        if kind is not None
    }


def adapter_targets(network: nn.Module, preset: str) -> list[str]:
    """Full names of the linear layers of a LoRA preset.

    Raises:
        PqmError: if there is no such preset.
    """
    if preset not in _PRESETS:
        raise PqmError(f"LoRA targets {preset!r}: use one of {', '.join(_PRESETS)}, or a list of layer names")
    pattern = re.compile(_PRESETS[preset])
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and pattern.fullmatch(name) and not name.startswith(_DECODER_INPUT)
    ]


def give_each_row_its_positions(network: nn.Module) -> None:
    """Let the projection of positions see one row an utterance wherever it has an adapter.

    ESPnet projects the positions of a batch once, for all its rows; an adapter that differs by row needs them all.
    """
    for module in network.modules():
        if hasattr(module, "linear_pos"):
            module.register_forward_pre_hook(_expand_positions)


def _expand_positions(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    query, _, _, positions, *_ = inputs
    layer = module.linear_pos
    # peft puts a module of its own around the layer, a bank of adapters gives it a forward of its own.
    plain = isinstance(layer, nn.Linear) and not is_replaced(layer)
    if module.training or len(positions) == len(query) or plain:
        return None
    return (*inputs[:3], positions.expand(len(query), -1, -1), *inputs[4:])
