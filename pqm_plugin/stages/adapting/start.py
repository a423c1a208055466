"""What a speaker's training starts from: the base with what learns in it, and how that is trained."""

import dataclasses

from torch import nn

from pqm_plugin.adapters.files import load_adapter
from pqm_plugin.adapters.full_weights import toolkit_lora, whole_model
from pqm_plugin.adapters.lora import merge
from pqm_plugin.adapters.options import TrainOptions
from pqm_plugin.stages.common.material import Material
from pqm_plugin.stages.common.opening import Opened, open_base
from pqm_plugin.stages.common.systems import COPY, Voices
from pqm_plugin.stages.common.training import Own, Trained, attach_lora, attach_toolkit_lora
from pqm_plugin.stages.config import Config


def start_of(material: Material, voices: Voices) -> Trained:
    """Load the base and put into it what is to learn.

    An adapter goes on from the speaker-independent one, if there is one. A copy starts from the base with that one
    merged into it, so that it knows of the domain what adapters know, and every weight learns. ESPnet's own LoRA starts
    from the base as it is: its toolkit has no such adapter.
    """
    config = material.recipe.config
    opened = open_base(material.recipe, voices.base_kind)
    recognizer, options = opened.recognizer, options_of(config, voices)
    if voices.control == COPY:
        network = _copy(material, voices, opened)
        everything = dataclasses.replace(config.lora, max_fraction=1.0)
        return Trained(recognizer, network, options, everything, Own(whole_model(network)))
    if voices.control:
        n_by_default = attach_toolkit_lora(recognizer, config.lora, config.seed)
        network = recognizer.network
        return Trained(recognizer, network, options, config.lora, Own(toolkit_lora(network), n_by_default))
    return Trained(recognizer, _adapter(material, voices, opened), options, config.lora)


def options_of(config: Config, voices: Voices) -> TrainOptions:
    """How it is trained: as `adapt` says, a copy with the learning rate and the epochs of `copy`, in all its layers."""
    if voices.control != COPY:
        return config.adapt
    return dataclasses.replace(config.adapt, top_layers=0, **dataclasses.asdict(config.copy))


def _adapter(material: Material, voices: Voices, opened: Opened) -> nn.Module:
    network, config = opened.recognizer.network, material.recipe.config
    if not material.has_sat():
        return attach_lora(opened.recognizer, config.lora, config.seed)
    sat = material.recipe.adapter_dir(voices.base_kind) / "sat"
    return load_adapter(network, sat, opened.weights_sha256, trainable=True)


def _copy(material: Material, voices: Voices, opened: Opened) -> nn.Module:
    network = opened.recognizer.network
    if material.has_sat():
        sat = material.recipe.adapter_dir(voices.base_kind) / "sat"
        merge(load_adapter(network, sat, opened.weights_sha256))
    # What the architecture itself determines does not learn.
    built_in = opened.recognizer.built_in
    for name, parameter in network.named_parameters():
        parameter.requires_grad = name not in built_in
    return network
