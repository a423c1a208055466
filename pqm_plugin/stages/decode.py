"""Stage 6: decode each target speaker's test utterances with each system.

What is missing of each system is shared out over jobs, processes here or on a cluster, and merged.
"""

import logging
import resource
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch

from pqm_plugin.adapters.bank import AdapterBank
from pqm_plugin.adapters.files import read_info
from pqm_plugin.adapters.full_weights import WeightSwapper, toolkit_lora, whole_model
from pqm_plugin.corpus.audio import duration_s, load_audio, plain_file
from pqm_plugin.corpus.names import join_first
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.engine.learn import attach_toolkit_lora
from pqm_plugin.errors import PqmError
from pqm_plugin.files import write_text
from pqm_plugin.models.families import family_of
from pqm_plugin.settings import as_dict
from pqm_plugin.stages.common.jobs import Job, backend_of, n_shares, run_jobs, shares
from pqm_plugin.stages.common.material import Material, examples
from pqm_plugin.stages.common.opening import PACKED_KINDS, Opened, decoding_mode, open_base
from pqm_plugin.stages.common.partial_results import DecodeTask, Line, Part, merge
from pqm_plugin.stages.common.systems import (
    CHECKED,
    COPY,
    STOCK,
    check_toolkit,
    parse_system,
    possible_adapters,
    systems,
    trust_adapters,
)
from pqm_plugin.stages.recipe import Recipe
from pqm_plugin.words import WordList

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
        lists = {speaker: task.words(speaker) for speaker in group}
        missing = {name for part in parts.values() for name in part.missing}
        for part in parts.values():
            if part.missing:
                part.start()
        for batch in _batches(task, material, opened, group):
            if missing.isdisjoint(utterance.utterance for utterance in batch):
                continue
            folders = [folder for utterance in batch if (folder := task.adapter(utterance.speaker))]
            _check_effect(material, opened, bank, batch, folders)
            words = [lists[utterance.speaker] for utterance in batch]
            for utterance, line in zip(batch, _decode(opened, bank, batch, folders, words), strict=True):
                if line.utterance in missing:
                    _keep(parts[utterance.speaker], line, counter)


def _bank(task: DecodeTask, opened: Opened) -> Bank:
    """What holds the speakers' weights in the network: adapters, several in a batch, or what each has instead."""
    network, adapter_set, config = opened.recognizer.network, task.system.adapter_set, task.recipe.config
    if adapter_set is None or not adapter_set.control:
        return AdapterBank(network, opened.weights_sha256)
    if adapter_set.control == COPY:
        return WeightSwapper(network, opened.weights_sha256, whole_model(network), {"control": COPY})
    attach_toolkit_lora(opened.recognizer, config.lora, config.seed)
    made_as = {"control": adapter_set.control, "lora": as_dict(config.lora)}
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


def _decode(
    opened: Opened,
    bank: Bank,
    batch: Sequence[Utterance],
    folders: Sequence[Path],
    words: Sequence[WordList | None],
) -> list[Line]:
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
            found = recognizer.recognize([piece for _, piece in chunk], [words[row] for row, _ in chunk])
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


def decode_stock_speakers(task: DecodeTask, share: Sequence[str], log: Path) -> None:
    """Decode what is missing of the speakers in `share` with one call of the stock tool, which writes `log`."""
    base, material = task.recipe.base_dir, Material(task.recipe)
    family = family_of(base)
    sample_rate = family.facts(base).sample_rate
    parts = [task.part(material, speaker) for speaker in share]
    folder = log.parent
    utterances = {found.utterance: found for speaker in share for found in material.utterances(task.split, speaker)}
    audio = {
        name: plain_file(utterances[name], sample_rate, folder / "audio") for part in parts for name in part.missing
    }
    write_text(folder / "wav.scp", "".join(f"{name} {path}\n" for name, path in sorted(audio.items())))
    result = family.decode_stock(task.system.key, base, folder / "wav.scp", folder, task.recipe.config.decode, log)
    logging.info("%s", result.command)
    write_text(folder / "command", result.command + "\n")
    write_text(folder / "model_bytes", f"{result.model_bytes}\n")
    shutil.rmtree(folder / "audio", ignore_errors=True)
    for part in parts:
        part.start()
        for name in part.missing:
            text = result.hypotheses[name]
            length_s = duration_s(utterances[name])
            part.append(Line(name, text, None, length_s, result.decode_s[name], result.peak_rss_bytes))


_BATCHES_A_GROUP = 4


def run_tasks(recipe: Recipe, material: Material, tasks: Sequence[DecodeTask]) -> None:
    """Decode what is missing of each task, several jobs in parallel, one thread each, and write each task's files."""
    packed = any(task.system.base_kind in PACKED_KINDS for task in tasks)
    mode = decoding_mode(recipe) if packed else "exact"
    jobs = [job for task in tasks for job in _jobs(task, material, mode)]
    logging.info("%d decoding jobs on %d processes", len(jobs), recipe.inference_nj)
    run_jobs(jobs, recipe.inference_nj, "decode", backend_of(recipe))
    for task in tasks:
        merge(task, material)


def _jobs(task: DecodeTask, material: Material, mode: str) -> Iterable[Job]:
    """Jobs of one system, each with its share of the speakers and of the work that is still to do."""
    parts = {speaker: task.part(material, speaker) for speaker in task.speakers}
    missing = {speaker: part.missing for speaker, part in parts.items() if part.missing}
    if missing:
        (task.folder / "run.json").unlink(missing_ok=True)
    stock = task.system.base_kind == STOCK
    family = family_of(task.recipe.base_dir)
    joins = family.BATCHES and task.joins_speakers and not stock
    together = _groups(task, material) if joins else []
    groups = {group[0]: group for group in together or ([speaker] for speaker in missing)}
    work = {name: sum(len(missing.get(speaker, ())) for speaker in group) for name, group in groups.items()}
    todo = {name: n for name, n in work.items() if n}
    n_speakers = sum(len(groups[name]) for name in todo)
    n = n_shares(n_speakers, task.recipe.inference_nj, task.recipe.speakers_per_job)
    for index, names in enumerate(shares(todo, n)):
        share = [groups[name] for name in names]
        speakers = [speaker for group in share for speaker in group]
        log = task.folder / "log" / f"decode.{index}.log"
        # A stock tool says how far it is in its log alone.
        counter = task.folder / "stock" / str(index) / "stock.log" if stock else log.with_suffix(".done")
        write_text(counter, "")
        yield Job(
            f"{task.system.key} {task.set_name} {join_first(speakers, 3)}",
            decode_stock_speakers if stock else decode_speakers,
            (task, speakers, counter) if stock else (task, share, counter, mode),
            log,
            sum(len(missing.get(speaker, ())) for speaker in speakers),
            counter,
            family.STOCK_PROGRESS if stock else b"\n",
        )


def _groups(task: DecodeTask, material: Material) -> list[list[str]]:
    """Speakers whose utterances are searched together: enough for some batches, whatever is missing of them."""
    groups: list[list[str]] = []
    room = 0
    for speaker in task.speakers:
        if room <= 0:
            groups.append([])
            room = _BATCHES_A_GROUP * task.recipe.config.decode.batch_size
        groups[-1].append(speaker)
        room -= len(material.partition.utterances(task.split, speaker))
    return groups


def run(recipe: Recipe) -> None:
    """Decode all systems; what is decoded already is kept."""
    material = Material(recipe)
    trust_adapters(recipe)
    check_toolkit(recipe)
    run_tasks(recipe, material, _tasks(recipe, material))


def _tasks(recipe: Recipe, material: Material) -> list[DecodeTask]:
    """Every system on the target speakers, and those that need no speaker's adapter on the control set."""
    baselines = family_of(recipe.base_dir).BASELINES
    speakers, target_set = material.speakers(), recipe.decoded(recipe.target_set, recipe.split)
    possible = possible_adapters(material.has_sat(), len(speakers))
    wanted = systems(recipe, baselines, possible)
    tasks = [DecodeTask(recipe, system, target_set, recipe.split, speakers) for system in wanted]
    if (
        recipe.words
        and recipe.words.is_dir()
        and not any((recipe.words / f"{name}.txt").is_file() for name in speakers)
    ):
        raise PqmError(f"--words {recipe.words} has no list of a target speaker: name one {speakers[0]}.txt")
    if recipe.check_set and recipe.split == "test":
        speakers, check_set = material.partition.speakers("check"), recipe.decoded(recipe.check_set)
        checked = [system for key in CHECKED if (system := parse_system(key, baselines)).adapter in ("", *possible)]
        tasks += [DecodeTask(recipe, system, check_set, "check", speakers) for system in checked]
    return tasks
