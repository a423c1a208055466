"""ESPnet's own LoRA: the layers that its `use_adapter` makes, over a base that is truly frozen."""

from collections.abc import Sequence

from torch import nn

from pqm_plugin.errors import PqmError
from pqm_plugin.models.espnet import library as espnet_library

KEY = "espnet-lora"


def attach(network: nn.Module, targets: Sequence[str], rank: int, alpha: float, dropout: float) -> int:
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
