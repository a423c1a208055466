"""What the layers of an ESPnet encoder-decoder are, by the names that ESPnet gives them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from pqm_plugin.errors import PqmError
from pqm_plugin.forwards import is_replaced
from pqm_plugin.models.espnet import library as espnet_library

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
TOOLKIT_LORA = "espnet-lora"


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


def attach_lora(network: nn.Module, targets: Sequence[str], rank: int, alpha: float, dropout: float) -> int:
    """Let ESPnet put its LoRA around the named linear layers, in place, and freeze all else; counts what ESPnet trains.

    ESPnet's `create_lora_adapter` freezes nothing: it gives loralib's layers, whose weights would be frozen, the base's
    own parameters, which learn. Its recipes have `freeze_param` for that.

    Args:
        targets: full layer names. ESPnet takes the ends of names, so that a short one would hit other layers too.
        alpha: a whole number, as ESPnet takes no other.

    Returns:
        Parameters that learn in what ESPnet has made, before anything is frozen.

    Raises:
        PqmError: if loralib is not installed, alpha is no whole number, or ESPnet has no LoRA for such layers.

    Source: Hu et al. 2021 (LoRA), section 4.1; loralib's `mark_only_lora_as_trainable`.
    """
    try:
        import loralib
    except ImportError as error:
        raise PqmError("ESPnet's LoRA needs loralib: pip install 'pqm_plugin[study]'") from error
    if alpha != int(alpha):
        raise PqmError(f"lora.alpha {alpha}: ESPnet's LoRA takes whole numbers alone")
    settings = {"rank": rank, "alpha": int(alpha), "dropout_rate": dropout, "target_modules": list(targets)}
    try:
        espnet_library.create_adapter(network, "lora", settings)
    except ValueError as error:
        raise PqmError(f"lora.targets: {' '.join(str(error).split())}") from error
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, loralib.LoRALayer)}
    if layers.keys() != set(targets):
        raise PqmError(f"lora.targets: ESPnet's LoRA is on {len(layers)} layers, {len(set(targets))} were asked for")
    for layer in layers.values():
        # In evaluation loralib adds the product to the weight and takes it away again, which rounds the base and
        # hides the factors from a training that leaves the rest of the model in evaluation.
        layer.train()
        layer.merge_weights = False
        layer.eval()
    trained_by_default = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    loralib.mark_only_lora_as_trainable(network)
    return trained_by_default
