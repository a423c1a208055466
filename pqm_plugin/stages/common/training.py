"""Train one adapter and write it, for stages 4 and 5."""

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pqm_plugin.adapters import library
from pqm_plugin.adapters.batches import Example
from pqm_plugin.adapters.files import AdapterInfo, adapter_answering, save_adapter
from pqm_plugin.adapters.full_weights import save_full_weights
from pqm_plugin.adapters.lora import attach, freeze, parameter_counts
from pqm_plugin.adapters.options import TrainOptions
from pqm_plugin.adapters.train import Member, TrainResult, train_adapter, train_together
from pqm_plugin.errors import PqmError
from pqm_plugin.models.families import family_of
from pqm_plugin.models.interface import Recognizer
from pqm_plugin.models.replay import losses_by_group, prepare_loss, training_loss
from pqm_plugin.records import request_hash
from pqm_plugin.stages.common.material import Material
from pqm_plugin.stages.config import LoraConfig


def training_request(material: Material) -> dict[str, Any]:
    """What an adapter depends on beside its base, its options and its utterances: how text and audio are taken."""
    recipe = material.recipe
    family = family_of(recipe.base_dir)
    return {"text_case": material.fit.case, **family.training_options(recipe.config.decode)}


def attach_lora(recognizer: Recognizer, config: LoraConfig, seed: int) -> "library.PeftModel":
    """A fresh LoRA as the configuration says, initialised by `seed`."""
    torch.manual_seed(seed)
    return attach(recognizer.network, _targets(recognizer, config), config.rank, config.alpha, config.dropout)


def attach_toolkit_lora(recognizer: Recognizer, config: LoraConfig, seed: int) -> int:
    """The same with the LoRA of the family's own toolkit; returns how many parameters that would let learn."""
    torch.manual_seed(seed)
    return recognizer.attach_toolkit_lora(_targets(recognizer, config), config.rank, config.alpha, config.dropout)


def _targets(recognizer: Recognizer, config: LoraConfig) -> Sequence[str]:
    return recognizer.adapter_targets(config.targets) if isinstance(config.targets, str) else config.targets


def lower_layers(recognizer: Recognizer, top_layers: int) -> list[str]:
    """The layers below the uppermost `top_layers` of the stack, whose adapters stay as they are; none for 0.

    Raises:
        PqmError: if there are not so many.
    """
    stack = recognizer.layer_stack()
    if top_layers > len(stack):
        raise PqmError(f"top_layers {top_layers}: the stack below the decoder has {len(stack)} layers; 0 means all")
    return stack[:-top_layers] if top_layers else []


@dataclass(frozen=True)
class FullWeights:
    """What is kept of a speaker where it is no adapter in PEFT's format: `tensors` of the network, which change as it
    learns, and how many parameters a toolkit `by_default` would have let learn, 0 where none made them.
    """

    tensors: Mapping[str, Tensor]
    by_default: int = 0


@dataclass(frozen=True)
class TrainingSetup:
    """A recogniser, what learns in it (the adapter around its network, or weights of its `own`), and how."""

    recognizer: Recognizer
    model: nn.Module
    options: TrainOptions
    lora: LoraConfig
    own: FullWeights | None = None

    def save(self, folder: Path, info: AdapterInfo) -> None:
        """Write what was learned."""
        if self.own is not None:
            save_full_weights(folder, self.own.tensors, replace(info, toolkit_trains=self.own.by_default))
        elif isinstance(self.model, library.PeftModel):
            save_adapter(folder, self.model, info)
        else:
            raise TypeError(f"{type(self.model)} is no adapter, and no weights of its own are named")


@dataclass(frozen=True)
class TrainingData:
    """What an adapter learns from and is judged by, all that it depends on, where it is written, and whose it is."""

    train: list[Example]
    dev: list[Example]
    request: dict[str, Any]
    folder: Path
    name: str


def train_and_save(setup: TrainingSetup, data: TrainingData) -> None:
    """Train what is trainable, say how much that is, and write it.

    A control that no epoch makes better is written as it starts; an adapter must have learned, or start from another.

    Raises:
        PqmError: if more than `lora.max_fraction` of the base would be setup.
    """
    counts = _count(setup, data.name)
    checkpoint = _checkpoint(data, data.request)
    recognizer, options = setup.recognizer, setup.options
    loss, prepare = partial(training_loss, recognizer), partial(prepare_loss, recognizer)
    seed = data.request["seed"] * 1000
    result = train_adapter(setup.model, loss, data.train, data.dev, options, seed, checkpoint, data.name, prepare)
    _save(setup, result, counts, data)
    checkpoint.unlink(missing_ok=True)


def train_and_save_together(setup: TrainingSetup, all_data: Sequence[TrainingData], label: str) -> None:
    """The same of several speakers, who learn in the same batches; adapters that are done already are left alone.

    Raises:
        PqmError: as above, and, when all others are written, for the first that no epoch made better.
    """
    counts = _count(setup, label)
    checkpoint = _checkpoint(all_data[0], {data.name: data.request for data in all_data})
    losses = losses_by_group(setup.recognizer)
    members = [Member(data.name, data.train, data.dev) for data in all_data]
    seed = all_data[0].request["seed"] * 1000
    results = train_together(setup.model, losses, members, setup.options, seed, checkpoint, label)
    failed: list[PqmError] = []
    for data, result in zip(all_data, results, strict=True):
        if adapter_answering(data.folder, data.request) is None:
            try:
                _save(setup, result, counts, data)
            except PqmError as error:
                failed.append(error)
    if failed:
        raise failed[0]
    checkpoint.unlink(missing_ok=True)


def _count(setup: TrainingSetup, name: str) -> tuple[int, int]:
    """How many parameters an adapter has, and the base; logged under `name`."""
    model, lora = setup.model, setup.lora
    freeze(model, lower_layers(setup.recognizer, setup.options.top_layers))
    trainable, base = parameter_counts(model)
    logging.info("%s: %d parameters to %d of the base (%.3f %%)", name, trainable, base, 100 * trainable / base)
    if setup.own and setup.own.by_default:
        logging.info("%s: ESPnet's default would train %d parameters", name, setup.own.by_default)
    if setup.options.top_layers:
        logging.info("%s: of these, those of the uppermost %d layers learn", name, setup.options.top_layers)
    if not 0 < trainable <= lora.max_fraction * base:
        raise PqmError(
            f"{name}: the adapter has {trainable / base:.2%} of the base's parameters, allowed are up to "
            f"{lora.max_fraction:.2%}: lower lora.rank, choose fewer lora.targets, or raise lora.max_fraction"
        )
    return trainable, base


def _checkpoint(first: TrainingData, request: dict[str, Any]) -> Path:
    """Named after a request: an interrupted run with other settings is not gone on with."""
    return first.folder.with_name(f".{first.folder.name}.{request_hash(request)[:12]}.train")


def _save(setup: TrainingSetup, result: TrainResult, counts: tuple[int, int], data: TrainingData) -> None:
    """Write what a training left in the model."""
    name, request, options = data.name, data.request, setup.options
    last = result.log[result.best_epoch]
    logging.info("%s: epoch %d is the best on dev, accuracy %.4f", name, result.best_epoch, last.dev_accuracy)
    starts = setup.own is not None or request.get("start_sha256")
    if result.best_epoch == 0 and options.epochs and not starts:
        section = "pretrain" if data.folder.name == "sat" else "adapt"
        raise PqmError(f"{name}: no epoch was better on dev than no adapter at all; lower {section}.learning_rate")
    info = AdapterInfo(request["base_sha256"], name, *counts, result.best_epoch, request, result.log)
    setup.save(data.folder, info)


def save_as_it_starts(setup: TrainingSetup, data: TrainingData) -> None:
    """Write the speaker-independent adapter as a speaker's own, who said nothing to learn from.

    Raises:
        PqmError: if there is none.
    """
    request, name = data.request, data.name
    if not request["start_sha256"]:
        raise PqmError(
            f"{name}: nothing to learn from, and no speaker-independent adapter to keep: leave the speaker out with "
            "--speakers, or give transcripts"
        )
    logging.warning("%s: nothing to learn from; the speaker-independent adapter is kept", name)
    info = AdapterInfo(request["base_sha256"], name, *parameter_counts(setup.model), 0, request)
    setup.save(data.folder, info)


def sweep_checkpoints(root: Path, names: Collection[str]) -> None:
    """Remove what interrupted runs with other settings left of adapters that are done now."""
    for path in root.glob(".*.train*"):
        found = re.fullmatch(r"\.{1,2}([^.].*)\.[0-9a-f]{12}\.train(\.partial)?", path.name)
        if found and found[1] in names:
            path.unlink(missing_ok=True)
