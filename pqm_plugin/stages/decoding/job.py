"""Decode some speakers in one process."""

import resource
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from pqm_plugin.adapters.bank import AdapterBank
from pqm_plugin.adapters.files import read_info
from pqm_plugin.adapters.full_weights import WeightSwapper, toolkit_lora, whole_model
from pqm_plugin.corpus.audio import duration_s, load_audio
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError
from pqm_plugin.stages.common.material import Material, examples
from pqm_plugin.stages.common.opening import Opened, open_base
from pqm_plugin.stages.common.systems import COPY
from pqm_plugin.stages.common.training import attach_toolkit_lora
from pqm_plugin.stages.config import as_dict
from pqm_plugin.stages.decoding.parts import Line, Part
from pqm_plugin.stages.decoding.task import DecodeTask

Bank = AdapterBank | WeightSwapper


def decode_speakers(task: DecodeTask, groups: Sequence[Sequence[str]], counter: Path, mode: str) -> None:
    """Decode what is missing of each group of speakers; the base is loaded once, adapters are switched.

    Utterances of one group are searched together, each with its speaker's adapter. What is searched together does not
    depend on what is missing, so that a decode that was cut off ends with the words of one that was not.
    """
    material = Material(task.recipe)
    opened = open_base(task.recipe, task.system.base_kind, mode)
    bank = _bank(task, opened)
    for group in groups:
        parts = {speaker: task.part(material, speaker) for speaker in group}
        missing = {name for part in parts.values() for name in part.missing}
        for part in parts.values():
            if part.missing:
                part.start()
        for batch in _batches(task, material, opened, group):
            if missing.isdisjoint(utterance.utterance for utterance in batch):
                continue
            folders = [folder for utterance in batch if (folder := task.adapter(utterance.speaker))]
            _check_effect(material, opened, bank, batch, folders)
            for utterance, line in zip(batch, _decode(opened, bank, batch, folders), strict=True):
                if line.utterance in missing:
                    _keep(parts[utterance.speaker], line, counter)


def _bank(task: DecodeTask, opened: Opened) -> Bank:
    """What holds the speakers' weights in the network: adapters, several in a batch, or what each has instead."""
    network, voices, config = opened.recognizer.network, task.system.voices, task.recipe.config
    if voices is None or not voices.control:
        return AdapterBank(network, opened.weights_sha256)
    if voices.control == COPY:
        return WeightSwapper(network, opened.weights_sha256, whole_model(network), {"control": COPY})
    attach_toolkit_lora(opened.recognizer, config.lora, config.seed)
    made_as = {"control": voices.control, "lora": as_dict(config.lora)}
    return WeightSwapper(network, opened.weights_sha256, toolkit_lora(network), made_as)


def _batches(
    task: DecodeTask, material: Material, opened: Opened, group: Sequence[str]
) -> Iterator[Sequence[Utterance]]:
    """The utterances of a group: those of one length together, or one by one as they come."""
    size = min(task.recipe.config.decode.batch_size, opened.recognizer.max_batch)
    utterances = [found for speaker in group for found in material.utterances(task.split, speaker)]
    if size > 1:
        utterances.sort(key=lambda found: (-duration_s(found), found.utterance))
    for start in range(0, len(utterances), size):
        yield utterances[start : start + size]


def _keep(part: Part, line: Line, counter: Path) -> None:
    part.append(line)
    with counter.open("a", encoding="utf-8") as done:
        done.write(f"{line.utterance}\n")


def _decode(opened: Opened, bank: Bank, batch: Sequence[Utterance], folders: Sequence[Path]) -> list[Line]:
    """Search all pieces of all utterances, as many at once as there are utterances, and join the words again."""
    recognizer = opened.recognizer
    audio = [load_audio(utterance, recognizer.facts.sample_rate) for utterance in batch]
    seconds = [len(samples) / recognizer.facts.sample_rate for samples in audio]
    start = time.perf_counter()
    pieces = [(row, piece) for row, samples in enumerate(audio) for piece in recognizer.pieces(samples)]
    texts: list[list[str]] = [[] for _ in batch]
    scores, n_tokens = [0.0] * len(batch), [0] * len(batch)
    for first in range(0, len(pieces), len(batch)):
        chunk = pieces[first : first + len(batch)]
        with bank.rows([folders[row] for row, _ in chunk] if folders else []):
            found = recognizer.recognize([piece for _, piece in chunk])
        for (row, _), hypothesis in zip(chunk, found, strict=True):
            texts[row].append(hypothesis.text)
            scores[row] += hypothesis.score
            n_tokens[row] += hypothesis.n_tokens
    # What is searched together takes its time together; each has its share by length.
    pace = (time.perf_counter() - start) / max(sum(seconds), 1e-9)
    return [
        Line(
            utterance.utterance,
            " ".join(filter(None, texts[row])),
            scores[row],
            length,
            pace * length,
            peak,
            n_tokens[row],
            opened.mode,
        )
        for peak in [peak_rss_bytes()]
        for row, (utterance, length) in enumerate(zip(batch, seconds, strict=True))
    ]


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _learned_nothing(folder: Path) -> bool:
    """Whether it is the base as it was: a control that no epoch made better, and that says so."""
    info = read_info(folder)
    return info.best_epoch == 0 and "control" in info.request and not info.request["start_sha256"]


def _check_effect(
    material: Material, opened: Opened, bank: Bank, batch: Sequence[Utterance], folders: Sequence[Path]
) -> None:
    """Load adapters. One that loads but changes nothing would be reported as one that does not help.

    Raises:
        PqmError: if the loss of an utterance is the same with and without the adapter.
    """
    recognizer = opened.recognizer
    for folder in bank.load(folders):
        utterance = batch[folders.index(folder)]
        ready = examples(recognizer, [utterance], material.fit)
        if not ready or _learned_nothing(folder):
            continue
        features, tokens = [ready[0].features], [ready[0].tokens]
        with torch.no_grad(), bank.rows([folder]):
            with_adapter = recognizer.loss(features, tokens).total
            with bank.without():
                without = recognizer.loss(features, tokens).total
        if torch.equal(with_adapter, without):
            raise PqmError(f"{folder}: the adapter does not change the output; delete it and run its stage again")
