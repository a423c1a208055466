"""Attach an adapter, train it on a speaker's speech, or several at once, and write it.

A recipe's speaker and a person's enrolment differ in where speech comes from and where the result goes.
"""

import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pqm_plugin.adapters import library
from pqm_plugin.adapters.batches import Example
from pqm_plugin.adapters.files import AdapterInfo, adapter_answering, load_adapter, save_adapter
from pqm_plugin.adapters.full_weights import save_full_weights
from pqm_plugin.adapters.lora import attach, freeze, parameter_counts
from pqm_plugin.adapters.options import LoraOptions, TrainOptions
from pqm_plugin.adapters.train import Member, TrainResult, train_adapter, train_together
from pqm_plugin.errors import PqmError
from pqm_plugin.models.interface import Recognizer
from pqm_plugin.models.replay import losses_by_group, prepare_loss, training_loss
from pqm_plugin.records import request_hash

_log = logging.getLogger(__name__)


def attach_lora(recognizer: Recognizer, lora: LoraOptions, seed: int) -> "library.PeftModel":
    """A fresh LoRA around the recogniser's network, initialised by `seed`."""
    torch.manual_seed(seed)
    return attach(recognizer.network, targets_of(recognizer, lora), lora.rank, lora.alpha, lora.dropout)


def attach_toolkit_lora(recognizer: Recognizer, lora: LoraOptions, seed: int) -> int:
    """The same with the LoRA of the family's own toolkit; returns how many parameters that would train by default."""
    torch.manual_seed(seed)
    return recognizer.attach_toolkit_lora(targets_of(recognizer, lora), lora.rank, lora.alpha, lora.dropout)


def targets_of(recognizer: Recognizer, lora: LoraOptions) -> list[str]:
    """Full names of the layers that `lora.targets` stands for."""
    targets = lora.targets
    return recognizer.adapter_targets(targets) if isinstance(targets, str) else list(targets)


def attach_adapter(
    recognizer: Recognizer, base_sha256: str, start: Path | None, lora: LoraOptions, seed: int
) -> "library.PeftModel":
    """The adapter in the folder `start`, to be trained further, or a fresh one where that is None.

    Raises:
        PqmError: if the adapter is damaged or was made for another base than that of the hash `base_sha256`.
    """
    if start is None:
        return attach_lora(recognizer, lora, seed)
    return load_adapter(recognizer.network, start, base_sha256, trainable=True)


@dataclass(frozen=True)
class FullWeights:
    """What is kept of a speaker where it is not an adapter in PEFT's format: `tensors` of the network, which are
    trained, and how many parameters a toolkit would train `by_default`, 0 where none made them.
    """

    tensors: Mapping[str, Tensor]
    by_default: int = 0


@dataclass(frozen=True)
class TrainingSetup:
    """A recogniser, what is trained in it (the adapter around its network, or weights of its `own`), and how.

    `max_fraction` bounds the adapter's parameters, as a share of the base's; above 0.
    """

    recognizer: Recognizer
    model: nn.Module
    options: TrainOptions
    seed: int
    max_fraction: float
    own: FullWeights | None = None

    def save(self, folder: Path, info: AdapterInfo) -> None:
        """Write what was trained."""
        if self.own is not None:
            save_full_weights(folder, self.own.tensors, replace(info, toolkit_trains=self.own.by_default))
        elif isinstance(self.model, library.PeftModel):
            save_adapter(folder, self.model, info)
        else:
            raise TypeError(f"{type(self.model)} is not an adapter, and no weights of its own are named")


@dataclass(frozen=True)
class TrainingData:
    """What one adapter is trained on and judged by, and where it is written.

    `request` is all that the adapter depends on, with its `base_sha256`, and its `start_sha256`, empty if it starts
    from zero; `found` goes into its record beside that. `remedy` says what to do if training made nothing better.
    """

    train: Sequence[Example]
    dev: Sequence[Example]
    request: dict[str, Any]
    folder: Path
    name: str
    remedy: str
    found: dict[str, Any] = field(default_factory=dict)


def learn(setup: TrainingSetup, data: TrainingData, watch: Callable[[int, int], None] | None = None) -> int:
    """Train what is trainable, say how much that is, and write it; returns the epoch that is kept.

    A control that no epoch makes better is written as it starts; an adapter must have improved, or start from another.

    Args:
        watch: is told how many batches are done, and of how many, see `train_adapter`.

    Raises:
        PqmError: if the adapter has more than `setup.max_fraction` of the base's parameters, no epoch was better than
            no adapter, or there is nothing to train on or to judge by.
    """
    counts = _count(setup, data.name)
    checkpoint = _checkpoint(data, data.request)
    loss, prepare = partial(training_loss, setup.recognizer), partial(prepare_loss, setup.recognizer)
    seed = setup.seed * 1000
    result = train_adapter(
        setup.model, loss, data.train, data.dev, setup.options, seed, checkpoint, data.name, prepare, watch
    )
    _save(setup, result, counts, data)
    checkpoint.unlink(missing_ok=True)
    return result.best_epoch


def learn_together(setup: TrainingSetup, all_data: Sequence[TrainingData], label: str) -> None:
    """The same of several speakers, who are trained in the same batches; adapters that are done are left alone.

    Raises:
        PqmError: as above, and, when all others are written, for the first that no epoch made better.
    """
    counts = _count(setup, label)
    checkpoint = _checkpoint(all_data[0], {data.name: data.request for data in all_data})
    losses = losses_by_group(setup.recognizer)
    members = [Member(data.name, data.train, data.dev) for data in all_data]
    results = train_together(setup.model, losses, members, setup.options, setup.seed * 1000, checkpoint, label)
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


def save_as_it_starts(setup: TrainingSetup, data: TrainingData) -> None:
    """Write the speaker-independent adapter as the adapter of a speaker with no speech to train on.

    Raises:
        PqmError: if there is none.
    """
    if not data.request["start_sha256"]:
        raise PqmError(
            f"{data.name}: nothing to train on, and no speaker-independent adapter to keep: leave the speaker out "
            "with --speakers, or give transcripts"
        )
    _log.warning("%s: nothing to train on; the speaker-independent adapter is kept", data.name)
    save_start(setup, data)


def save_start(setup: TrainingSetup, data: TrainingData) -> None:
    """Write what training would start from: the speaker-independent adapter, or one that changes nothing."""
    request = data.request | data.found
    info = AdapterInfo(request["base_sha256"], data.name, *parameter_counts(setup.model), 0, request)
    setup.save(data.folder, info)


def _lower_layers(recognizer: Recognizer, top_layers: int) -> list[str]:
    """The layers below the uppermost `top_layers` of the stack, whose adapters stay as they are; none for 0."""
    stack = recognizer.layer_stack()
    if top_layers > len(stack):
        raise PqmError(f"top_layers {top_layers}: the stack below the decoder has {len(stack)} layers; 0 means all")
    return stack[:-top_layers] if top_layers else []


def _count(setup: TrainingSetup, name: str) -> tuple[int, int]:
    """How many parameters the adapter has, and the base; logged under `name`."""
    freeze(setup.model, _lower_layers(setup.recognizer, setup.options.top_layers))
    trainable, base = parameter_counts(setup.model)
    _log.info("%s: %d parameters to %d of the base (%.3f %%)", name, trainable, base, 100 * trainable / base)
    if setup.own and setup.own.by_default:
        _log.info("%s: ESPnet's default would train %d parameters", name, setup.own.by_default)
    if setup.options.top_layers:
        _log.info("%s: of these, those of the uppermost %d layers are trained", name, setup.options.top_layers)
    if not 0 < trainable <= setup.max_fraction * base:
        raise PqmError(
            f"{name}: the adapter has {trainable / base:.2%} of the base's parameters, allowed are up to "
            f"{setup.max_fraction:.2%}: lower lora.rank, choose fewer lora.targets, or raise lora.max_fraction"
        )
    return trainable, base


def _save(setup: TrainingSetup, result: TrainResult, counts: tuple[int, int], data: TrainingData) -> None:
    """Write what a training left in the model."""
    last = result.log[result.best_epoch]
    _log.info("%s: epoch %d is the best on dev, accuracy %.4f", data.name, result.best_epoch, last.dev_accuracy)
    may_stay = setup.own is not None or data.request.get("start_sha256") or not setup.options.epochs
    if result.best_epoch == 0 and not may_stay:
        raise PqmError(
            f"{data.name}: the adapter trained on {len(data.train)} recordings is no better than no adapter at all: "
            f"{data.remedy}"
        )
    request = data.request | data.found
    info = AdapterInfo(request["base_sha256"], data.name, *counts, result.best_epoch, request, result.log)
    setup.save(data.folder, info)


def _checkpoint(first: TrainingData, request: Mapping[str, Any]) -> Path:
    return scratch_file(first.folder, request, "train")


def scratch_file(folder: Path, request: Mapping[str, Any], ending: str) -> Path:
    """A file beside an adapter's folder, named after the request: a run with other settings does not go on from it."""
    return folder.with_name(f".{folder.name}.{request_hash(request)[:12]}.{ending}")


def sweep_scratch(root: Path, names: Collection[str]) -> None:
    """Remove what interrupted runs, whatever their settings, left of adapters in `root` that are done now."""
    for path in root.glob(".*"):
        found = re.fullmatch(r"\.{1,2}([^.].*)\.[0-9a-f]{12}\.(train|heard|judged|fold\d+)(\.partial)?", path.name)
        if found and found[1] in names:
            path.unlink(missing_ok=True)
