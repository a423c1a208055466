"""Attach one LoRA to a frozen network, and merge it."""

from collections.abc import Sequence

from torch import nn

from pqm_plugin.adapters import library
from pqm_plugin.errors import PqmError


def attach(network: nn.Module, targets: Sequence[str], rank: int, alpha: float, dropout: float) -> "library.PeftModel":
    """Wrap the named layers of `network`, in place, with a fresh LoRA that is the only thing to train.

    `network` keeps working under its own name: peft changes its layers, not its class.

    Args:
        targets: full layer names, each of which must exist.
        alpha: the adapter's output is scaled by alpha / rank.

    Raises:
        PqmError: if a target is not a layer of the network, or none was given.

    Source: Hu et al. 2021 (LoRA), section 4.1: A Kaiming-uniform, B zero.
    """
    names = {name for name, _ in network.named_modules()}
    unknown = sorted(set(targets) - names)
    if unknown or not targets:
        raise PqmError(f"LoRA targets match nothing: {unknown[:3] or 'the list is empty'}; see --help for the presets")
    # peft declares alpha an integer and only ever divides it.
    config = library.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(targets))  # type: ignore[arg-type]
    model = library.get_peft_model(network, config)
    if not isinstance(model, library.PeftModel):
        raise TypeError(f"peft gave {type(model)}")
    return model


def freeze(model: nn.Module, layers: Sequence[str]) -> None:
    """Keep the adapters of the named layers of the network, and of all layers inside them, from being trained."""
    inside = tuple(f"{layer}." for layer in layers)
    network = model.get_base_model() if isinstance(model, library.PeftModel) else model
    for name, parameter in network.named_parameters():
        if name.startswith(inside):
            parameter.requires_grad = False


def merge(model: "library.PeftModel") -> None:
    """Add the active adapter to the float weights of the network that `model` wraps, in place, and take it off.

    Not for packed weights, which a small adapter does not move.
    """
    if not isinstance(model.base_model, library.LoraModel):
        raise TypeError(f"{type(model.base_model)} is not a LoRA")
    model.base_model.merge_and_unload()


def parameter_counts(model: nn.Module) -> tuple[int, int]:
    """Parameters of the adapter and whatever else is trained, and of the base had it never been quantised."""
    adapter = sum(value.numel() for name, value in model.named_parameters() if value.requires_grad or "lora_" in name)
    # Weights that layers share are counted once: `named_parameters` and `modules` give each object once.
    base = sum(parameter.numel() for name, parameter in model.named_parameters() if "lora_" not in name)
    packs = {id(pack): pack for module in model.modules() for pack in [getattr(module, "packed", None)] if pack}
    return adapter, base + sum(pack.shape.numel() for pack in packs.values())
