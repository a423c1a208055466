"""Stage 5: train an adapter for each target speaker, from the speaker-independent one if there is one."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import batched
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pqm_plugin.adapters.files import WEIGHTS, adapter_answering, load_adapter
from pqm_plugin.adapters.full_weights import toolkit_lora, whole_model
from pqm_plugin.adapters.lora import merge
from pqm_plugin.adapters.options import TrainOptions
from pqm_plugin.corpus.audio import duration_s
from pqm_plugin.corpus.names import join_first
from pqm_plugin.corpus.text import TextFit
from pqm_plugin.corpus.utterance import Utterance, digest, size_bytes
from pqm_plugin.engine.learn import (
    FullWeights,
    TrainingData,
    TrainingSetup,
    attach_adapter,
    attach_toolkit_lora,
    learn,
    learn_together,
    save_as_it_starts,
    sweep_scratch,
)
from pqm_plugin.errors import PqmError
from pqm_plugin.files import safe_name
from pqm_plugin.models.repetition import compression_ratio
from pqm_plugin.settings import as_dict
from pqm_plugin.stages.common.jobs import Job, backend_of, n_shares, run_jobs, shares
from pqm_plugin.stages.common.material import AS_WRITTEN, Material, training_examples
from pqm_plugin.stages.common.opening import Opened, open_base, weights_file, weights_hash
from pqm_plugin.stages.common.partial_results import DecodeTask
from pqm_plugin.stages.common.style import styled
from pqm_plugin.stages.common.systems import (
    COPY,
    AdapterIndex,
    AdapterSet,
    Row,
    all_adapter_sets,
    check_toolkit,
    parse_system,
)
from pqm_plugin.stages.config import Config
from pqm_plugin.stages.decode import run_tasks
from pqm_plugin.stages.recipe import Recipe

SHARES = {"train": 2 / 3, "dev": 1 / 3}
"""Of `adapt_minutes`: as the partition's 40 % and 20 % are."""


@dataclasses.dataclass(frozen=True)
class Speech:
    """A speaker's utterances, and how their texts are written and fitted to the base for training."""

    train: Sequence[Utterance]
    dev: Sequence[Utterance]
    fit: TextFit
    written: Callable[[Sequence[Utterance]], Sequence[Utterance]] = list


def speech_of(material: Material, adapter_set: AdapterSet, speaker: str) -> Speech:
    """The utterances to train on; without transcripts those that the model is sure enough of."""
    allowed = {split: allowed_speech(material, split, speaker) for split in SHARES}
    if not adapter_set.rounds:
        return Speech(allowed["train"], allowed["dev"], material.learned_fit, partial(styled, material))
    heard = {split: _heard(material, adapter_set, speaker, split, found) for split, found in allowed.items()}
    return Speech(heard["train"], heard["dev"], AS_WRITTEN)


def allowed_speech(material: Material, split: str, speaker: str) -> list[Utterance]:
    """The first utterances of a split, as many as fit into its share of `adapt_minutes`, one at least; 0 is all."""
    utterances = material.utterances(split, speaker)
    left_s = 60 * material.recipe.config.adapt_minutes * SHARES[split]
    if not left_s:
        return utterances
    chosen: list[Utterance] = []
    for utterance in utterances:
        left_s -= duration_s(utterance)
        if chosen and left_s < 0:
            break
        chosen.append(utterance)
    return chosen


def first_pass(material: Material, adapter_set: AdapterSet) -> list[DecodeTask]:
    """The decodes whose words the adapters are trained on: by the round before, and first by what there is without one.

    They are searched for as `pqm_config` says: a second decoding setting is for what is measured, not for what is
    learned.
    """
    recipe, baselines = dataclasses.replace(material.recipe, inference_config=None, tag=""), ()
    if adapter_set.rounds > 1:
        before = AdapterSet(adapter_set.base_kind, adapter_set.rounds - 1)
        key = f"{adapter_set.base_kind}+{before.folder.replace('speakers', 'speaker')}"
    else:
        key = f"{adapter_set.base_kind}+sat" if material.has_sat() else adapter_set.base_kind
    system = parse_system(key, baselines)
    decoded = {split: recipe.decoded(recipe.target_set, split) for split in SHARES}
    return [DecodeTask(recipe, system, decoded[split], split, material.speakers()) for split in SHARES]


def _heard(
    material: Material, adapter_set: AdapterSet, speaker: str, split: str, allowed: Sequence[Utterance]
) -> list[Utterance]:
    """The allowed utterances of which the model is sure, with its own words for texts; the surest one at least.

    A text that repeats itself is left out, however sure the model is of it.
    """
    [task] = [task for task in first_pass(material, adapter_set) if task.split == split]
    lines = {line.utterance: line for line in task.part(material, speaker).lines}
    most = material.recipe.config.decode.compression_ratio_threshold
    said = [one for one in allowed if 0 < compression_ratio(lines[one.utterance].text) <= most]
    log_prob = {utterance.utterance: lines[utterance.utterance].log_prob_per_token for utterance in said}
    least = material.recipe.config.unsupervised.min_log_prob
    sure = [utterance for utterance in said if log_prob[utterance.utterance] >= least]
    sure = sure or sorted(said, key=lambda utterance: -log_prob[utterance.utterance])[:1]
    logging.info("%s: sure of %d of %d %s utterances", speaker, len(sure), len(allowed), split)
    return [dataclasses.replace(utterance, text=lines[utterance.utterance].text) for utterance in sure]


Groups = list[list[str]]


def speakers_per_batch(recipe: Recipe, adapter_set: AdapterSet) -> int:
    """How many speakers are trained in the same batches; controls have no form by row, each is trained alone.

    Raises:
        PqmError: if they are fewer than one, or more than a job has.
    """
    if not 1 <= recipe.speakers_per_batch <= recipe.speakers_per_job:
        raise PqmError(
            f"--speakers_per_batch {recipe.speakers_per_batch}: use at least 1, and at most as many as "
            f"--speakers_per_job ({recipe.speakers_per_job})"
        )
    return 1 if adapter_set.control else recipe.speakers_per_batch


def groups_of(material: Material, adapter_set: AdapterSet, todo: Sequence[str]) -> Groups:
    """The groups that have somebody to adapt.

    Whole groups, some of whose speakers may be done: who is in a group must not depend on what an earlier run came to,
    or a run that was cut off would end in other bits. Speakers of about as much work are together, so that they end an
    epoch at about the same step.
    """
    size = speakers_per_batch(material.recipe, adapter_set)
    if size == 1 or not todo:
        return [[speaker] for speaker in todo]
    work = {speaker: work_of(material, speaker) for speaker in material.speakers()}
    ordered = sorted(work, key=lambda speaker: (-work[speaker], speaker))
    return [list(group) for group in batched(ordered, size) if not set(group).isdisjoint(todo)]


def dealt(material: Material, groups: Sequence[Sequence[str]]) -> list[Groups]:
    """The groups of each job, about as much work for all."""
    recipe = material.recipe
    by_name = {group[0]: list(group) for group in groups}
    work = {name: sum(work_of(material, speaker) for speaker in group) for name, group in by_name.items()}
    largest = max(map(len, groups), default=1)
    n = n_shares(len(groups), recipe.nj, recipe.speakers_per_job // largest)
    return [[by_name[name] for name in share] for share in shares(work, n)]


def work_of(material: Material, speaker: str) -> float:
    """About how much there is to train on: seconds of segments, or else bytes of files, or else utterances."""
    found = [utterance for split in SHARES for utterance in material.utterances(split, speaker)]
    return sum(
        size_bytes(utterance) or 1 if utterance.end_s is None else utterance.end_s - (utterance.start_s or 0)
        for utterance in found
    )


def start_of(material: Material, adapter_set: AdapterSet) -> TrainingSetup:
    """Load the base and put into it what is to be trained.

    An adapter goes on from the speaker-independent one, if there is one. A copy starts from the base with that one
    merged into it, so that it knows of the domain what adapters know, and every weight is trained. ESPnet's own LoRA
    starts from the base as it is: its toolkit has no such adapter.
    """
    config = material.recipe.config
    opened = open_base(material.recipe, adapter_set.base_kind)
    recognizer, options = opened.recognizer, options_of(config, adapter_set)
    setup = partial(TrainingSetup, recognizer, options=options, seed=config.seed)
    if adapter_set.control == COPY:
        network = _copy(material, adapter_set, opened)
        return setup(network, max_fraction=1.0, own=FullWeights(whole_model(network)))
    if adapter_set.control:
        n_by_default = attach_toolkit_lora(recognizer, config.lora, config.seed)
        model, own = recognizer.network, FullWeights(toolkit_lora(recognizer.network), n_by_default)
    else:
        sat = _sat(material, adapter_set)
        model, own = attach_adapter(recognizer, opened.weights_sha256, sat, config.lora, config.seed), None
    return setup(model, max_fraction=config.lora.max_fraction, own=own)


def _sat(material: Material, adapter_set: AdapterSet) -> Path | None:
    """The folder of the speaker-independent adapter, if there is one."""
    return material.recipe.adapter_dir(adapter_set.base_kind) / "sat" if material.has_sat() else None


def options_of(config: Config, adapter_set: AdapterSet) -> TrainOptions:
    """How it is trained: as `adapt` says, a copy with the learning rate and the epochs of `copy`, in all its layers."""
    if adapter_set.control != COPY:
        return config.adapt
    return dataclasses.replace(config.adapt, top_layers=0, **dataclasses.asdict(config.copy))


def _copy(material: Material, adapter_set: AdapterSet, opened: Opened) -> nn.Module:
    network = opened.recognizer.network
    if sat := _sat(material, adapter_set):
        merge(load_adapter(network, sat, opened.weights_sha256))
    # What the architecture itself determines is not trained.
    built_in = opened.recognizer.built_in
    for name, parameter in network.named_parameters():
        parameter.requires_grad = name not in built_in
    return network


@dataclass(frozen=True)
class SpeakerJob:
    """A speaker, the utterances to train on, all that the adapter depends on, and where it is written."""

    speaker: str
    speech: Speech
    request: dict[str, Any]
    folder: Path

    def is_done(self) -> bool:
        """Whether the adapter is there as it is asked for."""
        return adapter_answering(self.folder, self.request) is not None

    def data(self, setup: TrainingSetup, seed: int) -> TrainingData:
        """What is trained on, ready for the recogniser; `seed` joins utterances, if any are to be."""
        recognizer, speech = setup.recognizer, self.speech
        fit, options = speech.fit, setup.options
        train = training_examples(recognizer, speech.written(speech.train), fit, options, seed)
        # Where every example costs a whole window, dev is measured on joined ones, too.
        of_dev = options if options.joined_alone else dataclasses.replace(options, joined_s=0.0)
        dev = training_examples(recognizer, speech.written(speech.dev), fit, of_dev, seed)
        return TrainingData(train, dev, self.request, self.folder, self.speaker, "lower adapt.learning_rate")


def speaker_job_of(material: Material, adapter_set: AdapterSet, speaker: str) -> SpeakerJob:
    """The speaker as a target of `adapter_set`."""
    speech = speech_of(material, adapter_set, speaker)
    folder = adapter_set.root(material.recipe) / safe_name(speaker)
    return SpeakerJob(speaker, speech, _request(material, adapter_set, speech), folder)


def _request(material: Material, adapter_set: AdapterSet, speech: Speech) -> dict[str, Any]:
    recipe = material.recipe
    sat = recipe.adapter_dir(adapter_set.base_kind) / "sat" / WEIGHTS
    from_sat = adapter_set.from_sat and material.has_sat() and sat.is_file()
    together = speakers_per_batch(recipe, adapter_set)
    return {
        # The index and checkpoints of adapters that are there already know of no controls, and of one speaker a batch.
        **({"control": adapter_set.control} if adapter_set.control else {}),
        **({"speakers_per_batch": together} if together > 1 else {}),
        "base_sha256": weights_hash(weights_file(recipe, adapter_set.base_kind)),
        "start_sha256": weights_hash(sat) if from_sat else "",
        **({"lora": as_dict(recipe.config.lora)} if adapter_set.control != COPY else {}),
        "train": as_dict(options_of(recipe.config, adapter_set)),
        "seed": recipe.config.seed,
        **material.training_request(),
        "threads": 1,
        "train_utterances": digest(speech.train),
        "dev_utterances": digest(speech.dev),
    }


def run(recipe: Recipe) -> None:
    """Adapt every target speaker whose adapter is not there yet, several in parallel."""
    material = Material(recipe)
    # A wrong --speakers is named before anything that is missing.
    material.speakers()
    check_toolkit(recipe)
    for adapter_set in all_adapter_sets(recipe):
        sat = recipe.adapter_dir(adapter_set.base_kind) / "sat"
        if adapter_set.from_sat and material.has_sat() and not (sat / WEIGHTS).is_file():
            raise PqmError(f"{sat} holds no adapter to start from: run stage 4 (pretrain) first")
        if adapter_set.rounds:
            run_tasks(recipe, material, first_pass(material, adapter_set))
        _adapt(material, adapter_set)


def _adapt(material: Material, adapter_set: AdapterSet) -> None:
    recipe, speakers = material.recipe, material.speakers()
    root = adapter_set.root(recipe)
    index = AdapterIndex(root, adapter_set.weights)
    todo = [speaker for speaker in speakers if not _is_done(index, material, adapter_set, speaker)]
    logging.info("%s: %d speakers to adapt, %d done already", root, len(todo), len(speakers) - len(todo))
    try:
        run_jobs(_jobs(material, adapter_set, todo), recipe.nj, "adapt", backend_of(recipe))
    finally:
        index.take_in()
    if todo or index.has_checkpoints():
        sweep_scratch(root, set(speakers))


def _jobs(material: Material, adapter_set: AdapterSet, todo: Sequence[str]) -> list[Job]:
    recipe = material.recipe
    groups = groups_of(material, adapter_set, todo)
    logs = adapter_set.root(recipe) / "log"
    jobs = []
    for place, share in enumerate(dealt(material, groups)):
        counter = logs / f"adapt.{place}.done"
        counter.parent.mkdir(parents=True, exist_ok=True)
        counter.write_text("")
        speakers = [speaker for group in share for speaker in group]
        arguments = (recipe, adapter_set, share, counter)
        log = logs / f"adapt.{place}.log"
        jobs.append(Job(f"adapt {join_first(speakers, 3)}", adapt_speakers, arguments, log, len(speakers), counter))
    return jobs


def _is_done(index: AdapterIndex, material: Material, adapter_set: AdapterSet, speaker: str) -> bool:
    target = speaker_job_of(material, adapter_set, speaker)
    if index.holds(speaker, target.request):
        return True
    if not index.has_folder(speaker) or not target.is_done():
        return False
    index.add(Row.of(target.folder, target.request, adapter_set.weights))
    return True


def adapt_speakers(recipe: Recipe, adapter_set: AdapterSet, groups: Sequence[Sequence[str]], counter: Path) -> None:
    """Adapt some speakers in this process: the base is loaded once, every group starts from the same weights."""
    material = Material(recipe)
    setup = start_of(material, adapter_set)
    start = {name: value.detach().clone() for name, value in setup.model.named_parameters() if value.requires_grad}
    lines = counter.read_text(encoding="utf-8").splitlines() if counter.exists() else []
    noted = {line.split("\t")[0] for line in lines}
    for group in groups:
        targets = [speaker_job_of(material, adapter_set, speaker) for speaker in group]
        # An earlier try of this job came as far as that.
        if not all(target.is_done() for target in targets):
            with torch.no_grad():
                for name, value in setup.model.named_parameters():
                    if name in start:
                        value.copy_(start[name])
            _adapt_group(material, adapter_set, setup, targets)
        for target in targets:
            if target.speaker not in noted:
                with counter.open("a", encoding="utf-8") as done:
                    done.write(Row.of(target.folder, target.request, adapter_set.weights).line())


def _adapt_group(
    material: Material, adapter_set: AdapterSet, setup: TrainingSetup, targets: Sequence[SpeakerJob]
) -> None:
    """Train what is in the model for one speaker, or for several in the same batches; those that are done stay."""
    all_data = []
    for target in targets:
        data = target.data(setup, material.recipe.config.seed)
        if not adapter_set.rounds or (data.train and data.dev):
            all_data.append(data)
        elif not target.is_done():
            save_as_it_starts(setup, data)
    if speakers_per_batch(material.recipe, adapter_set) > 1 and all_data:
        learn_together(setup, all_data, join_first([data.name for data in all_data], 3))
    else:
        for data in all_data:
            learn(setup, data)
