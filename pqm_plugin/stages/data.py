"""Stage 1: from a corpus as distributed to Kaldi folders and the speaker partition."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pqm_plugin.corpus.audio import AudioInfo, blocks_of, probe
from pqm_plugin.corpus.kaldi import parse_channel, write_data_folder
from pqm_plugin.corpus.manifests import write_manifests
from pqm_plugin.corpus.names import join_first
from pqm_plugin.corpus.partition import (
    ANYWHERE,
    UNSEEN,
    Listing,
    Partition,
    every_second_speaker,
    find_listing,
    listed_partition,
    make_partition,
    overlap,
    without_test_sentences,
)
from pqm_plugin.corpus.readers import Reader, find_reader, read_into
from pqm_plugin.corpus.samples import trouble_of
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.corpus.validate import speaker_warnings
from pqm_plugin.errors import PqmError
from pqm_plugin.files import safe_name, write_json, write_text
from pqm_plugin.report.tables import overlap_sentence
from pqm_plugin.stages.recipe import LEFT_OUT, OVERLAP, Recipe


@dataclass(frozen=True)
class Amount:
    """How much speech there is."""

    n_speakers: int
    n_utterances: int
    duration_s: float

    def __str__(self) -> str:
        """Return the amount in words."""
        return f"{self.n_speakers} speakers, {self.n_utterances} utterances, {self.duration_s / 3600:.2f} h"


@dataclass(frozen=True)
class DataSummary:
    """What stage 1 found: amounts by set and by split, why speakers were left out, and what else to look at."""

    sets: dict[str, Amount]
    splits: dict[str, Amount]
    speakers_left_out: dict[str, str]
    warnings: tuple[str, ...]
    partition: Path

    def lines(self) -> list[str]:
        """Return the summary for people, one fact a line."""
        left_out = self.speakers_left_out
        return [
            *(f"set {name}: {amount}" for name, amount in self.sets.items()),
            *(f"split {name}: {amount}" for name, amount in self.splits.items()),
            f"speakers left out: {len(left_out)}",
            *(f"left out: speaker {speaker}: {why}" for speaker, why in sorted(left_out.items())),
        ]


PARTITION = "partition.tsv"
LHOTSE = "lhotse"
"""Manifests of every set, where they are asked for."""
SOUNDS = ".sounds"
"""What a corpus has in no file, by set: a name that no set can have."""
_SHOWN = 10

_log = logging.getLogger(__name__)


def run(recipe: Recipe) -> None:
    """Prepare every set that the recipe names."""
    if recipe.corpus is None or not recipe.target_set:
        raise PqmError("stage 1 needs --corpus and --target_set")
    prepare_data(
        recipe.corpus,
        recipe.reader,
        recipe.datadir,
        recipe.target_set,
        recipe.sat_sets,
        recipe.train_set or None,
        recipe.valid_set or None,
        recipe.check_set or None,
        recipe.speakers or None,
        listing=find_listing(recipe.partition, recipe.reader) if recipe.partition else None,
        channel=_channel(recipe.channel),
        test_sentences=recipe.test_sentences,
        lhotse=recipe.datadir / LHOTSE if recipe.write_lhotse else None,
    )


def _channel(text: str) -> int | None:
    try:
        return parse_channel(text) if text else None
    except ValueError as error:
        raise PqmError(f"--channel: {error}, the first one") from None


@dataclass(frozen=True)
class _Lost:
    utterance: str
    speaker: str
    set: str
    why: str
    place: str = ""


@dataclass(frozen=True)
class _Set:
    utterances: list[Utterance]
    durations_s: dict[str, float]
    lost: list[_Lost]


def prepare_data(
    corpus: Path,
    reader: str,
    datadir: Path,
    target_set: str,
    sat_sets: Sequence[str],
    train_set: str | None = None,
    valid_set: str | None = None,
    check_set: str | None = None,
    speakers: Sequence[str] | None = None,
    split_rule: str = "paper",
    min_utterances: int = 5,
    listing: Listing | None = None,
    channel: int | None = None,
    test_sentences: str = ANYWHERE,
    lhotse: Path | None = None,
) -> DataSummary:
    """Write a Kaldi folder for every set, `partition.tsv`, and `left_out.tsv` with every utterance that was lost.

    `speakers` chooses the target speakers, None takes all of `target_set`, or every second one if that is a SAT set
    too: the others are then SAT speakers. With a `listing` the target speakers and their splits are those it names,
    whatever the rule, and nothing else is read of a set that is only a target set. `overlap.json` tells what each
    target's test shares with train. The same inputs give the same bytes, and files that hold them already are left
    alone. Nothing is written before everything was read. `channel`, from 0, is the one used of every recording
    whose list names none; None averages the channels, with a warning where they seem to be two people's. With
    `unseen` for `test_sentences` nothing is trained on the text of a test utterance: speakers of one script would
    know it from each other. Manifests of lhotse go to the folder `lhotse`, if there is one named.

    Raises:
        PqmError: if a set is missing or empty, an audio file cannot be used, a speaker's name cannot be a folder's,
            or the partition cannot be made.
    """
    others = [name for name in (*sat_sets, train_set, valid_set, check_set) if name]
    only = {target_set: listing} if listing and target_set not in others else {}
    sets = _read_sets(corpus, find_reader(reader), [target_set, *others], only, channel, datadir / SOUNDS)
    utterances = {name: loaded.utterances for name, loaded in sets.items()}
    targets, sat, check = (
        {name: utterances[name] for name in names if name} for names in ([target_set], sat_sets, [check_set])
    )
    if listing:
        partition = listed_partition(listing, targets, sat, speakers, check)
    else:
        if target_set in sat:
            speakers = speakers or _learners(targets[target_set], min_utterances)
            sat[target_set] = [each for each in sat[target_set] if each.speaker not in speakers]
        partition = make_partition(targets, sat, speakers, check, min_utterances, split_rule)
    if test_sentences == UNSEEN:
        partition = without_test_sentences(partition, utterances)
    elif test_sentences != ANYWHERE:
        raise PqmError(f"--test_sentences {test_sentences!r}: use {ANYWHERE} or {UNSEEN}")
    for name, whole in utterances.items():
        write_data_folder(datadir / name, whole)
        if lhotse:
            _write_lhotse(lhotse, name, whole, partition)
    partition.write(datadir / PARTITION)
    _write_left_out(datadir / LEFT_OUT, sets, partition)
    shared = overlap(partition, utterances)
    write_json(datadir / OVERLAP, shared)
    _log.info(overlap_sentence(shared))
    warnings = (*_warnings(sets, datadir / LEFT_OUT), *_heard_before(partition, train_set, utterances))
    return _said(_summary(sets, partition, warnings, datadir / PARTITION))


def _write_lhotse(folder: Path, name: str, utterances: Sequence[Utterance], partition: Partition) -> None:
    splits = {row.utterance: row.split for row in partition.rows if row.set == name}
    left_out = write_manifests(folder, name, utterances, splits)
    if left_out:
        shown = join_first(left_out, _SHOWN)
        _log.warning("set %s: lhotse reads no archives: %d utterances are left out (%s)", name, len(left_out), shown)


def _learners(utterances: Sequence[Utterance], min_utterances: int) -> list[str]:
    """Every second speaker of a set that has both SAT and target speakers."""
    speakers = every_second_speaker(utterances, min_utterances)
    _log.info("every second speaker is a target (%s), the others are for SAT; --speakers chooses", " ".join(speakers))
    return list(speakers)


def _said(summary: DataSummary) -> DataSummary:
    """Log the summary and its warnings, and hand it on."""
    for line in summary.lines():
        _log.info(line)
    for line in summary.warnings:
        _log.warning(line)
    return summary


def _read_sets(
    corpus: Path, source: Reader, names: Iterable[str], only: Mapping[str, Listing], channel: int | None, sounds: Path
) -> dict[str, _Set]:
    """Read every set once, however many parts it plays; of those in `only`, what the listing knows."""
    once = list(dict.fromkeys(safe_name(name, "set") for name in names))
    return {name: _read_set(source, corpus, name, only.get(name), channel, sounds / name) for name in once}


def _wanted(found: Iterable[Utterance], name: str, listing: Listing | None) -> list[Utterance]:
    """Return all utterances, or those of the groups in `listing`."""
    everything = list(found)
    if listing is None:
        return everything
    wanted = [utterance for utterance in everything if listing.group_of(utterance.utterance)]
    if not wanted:
        raise PqmError(f"set {name} holds none of the utterances of partition {listing.name}: correct --target_set")
    _log.info("set %s: %d of its %d utterances are of the partition's speakers", name, len(wanted), len(everything))
    return wanted


def _read_set(
    source: Reader, corpus: Path, name: str, listing: Listing | None, channel: int | None, sounds: Path
) -> _Set:
    """Read a set, check all its audio, and set aside what has no audio or no transcript."""
    whole, lost = [], []
    for found in _wanted(read_into(source, corpus, name, sounds), name, listing):
        utterance = found if channel is None or found.channel is not None else replace(found, channel=channel)
        if utterance.audio and utterance.text.strip() and not utterance.problem:
            whole.append(utterance)
        else:
            hole = "audio without transcript" if utterance.audio else "transcript without audio"
            lost.append(_Lost(utterance.utterance, utterance.speaker, name, utterance.problem or hole, utterance.place))
    for speaker in sorted({utterance.speaker for utterance in whole}):
        safe_name(speaker)
    _log.info("set %s: checking the audio of %d utterances", name, len(whole))
    infos, unusable = _probe(name, whole)
    lost += unusable
    listed = [f"{entry.place}: {entry.why}" for entry in lost if entry.place]
    for line in listed[:_SHOWN]:
        _log.warning(line)
    if not infos:
        raise PqmError(
            f"{corpus}: set {name} is empty: none of {len(lost)} utterances has both audio and a transcript; "
            + (f"the first: {listed[0]}" if listed else "check that the corpus is unpacked whole")
        )
    _say_rates(name, infos)
    _say_channels(name, [each for each in whole if each.channel is None], infos)
    whole = [utterance for utterance in whole if utterance.utterance in infos]
    return _Set(whole, {utterance: info.duration_s for utterance, info in infos.items()}, lost)


def _say_channels(name: str, averaged: Sequence[Utterance], infos: Mapping[str, AudioInfo]) -> None:
    """Listen to recordings of several channels, each once, and warn where their average is not what is wanted."""
    recordings: dict[str, Utterance] = {}
    for utterance in averaged:
        if utterance.utterance in infos and infos[utterance.utterance].n_channels > 1:
            recordings.setdefault(utterance.audio, utterance)
    found: dict[str, list[str]] = {}
    for audio, utterance in recordings.items():
        trouble = trouble_of(blocks_of(utterance))
        if trouble:
            found.setdefault(trouble, []).append(audio)
    remedy = "name the channel, from 0, in the fifth field of segments, in a table's column `channel`, or by --channel"
    for trouble, files in found.items():
        _log.warning("set %s: %d recordings (%s): %s: %s", name, len(files), join_first(files, _SHOWN), trouble, remedy)


def _say_rates(name: str, infos: Mapping[str, AudioInfo]) -> None:
    """Say which files will be resampled; most models take 16 kHz, and stage 2 tells the rate of the base."""
    rates = Counter(info.sample_rate for info in infos.values())
    if set(rates) != {16000}:
        counts = ", ".join(f"{count} at {rate} Hz" for rate, count in sorted(rates.items()))
        first = next(utterance for utterance, info in infos.items() if info.sample_rate != 16000)
        _log.warning("set %s: audio is %s (%s …): what differs from the base's rate is resampled", name, counts, first)


def _probe(name: str, utterances: list[Utterance]) -> tuple[dict[str, AudioInfo], list[_Lost]]:
    """Check all audio; what cannot be used is lost where the user's own list names it, and else stops the stage."""
    infos: dict[str, AudioInfo] = {}
    lost: list[_Lost] = []
    bad: list[PqmError] = []
    for utterance in utterances:
        try:
            infos[utterance.utterance] = probe(utterance)
        except PqmError as error:
            if utterance.place:
                lost.append(_Lost(utterance.utterance, utterance.speaker, name, str(error), utterance.place))
                continue
            bad.append(error)
            _log.error(str(error))
    if bad:
        raise PqmError(f"set {name}: {len(bad)} of {len(utterances)} audio files cannot be used, the first: {bad[0]}")
    return infos, lost


def _write_left_out(path: Path, sets: Mapping[str, _Set], partition: Partition) -> None:
    """Write every utterance that the corpus holds and the partition lost, with the reason."""
    rows = [entry for loaded in sets.values() for entry in loaded.lost]
    kept = {(row.utterance, row.set) for row in partition.rows}
    rows += [
        _Lost(utterance.utterance, utterance.speaker, name, partition.left_out[utterance.speaker])
        for name, loaded in sets.items()
        for utterance in loaded.utterances
        if utterance.speaker in partition.left_out and (utterance.utterance, name) not in kept
    ]
    ordered = sorted(rows, key=lambda row: (row.set, row.utterance))
    lines = [
        "utterance\tspeaker\tset\twhy",
        *(
            "\t".join(" ".join(field.split()) for field in (row.utterance, row.speaker, row.set, why))
            for row in ordered
            for why in [f"{row.place}: {row.why}" if row.place else row.why]
        ),
    ]
    write_text(path, "".join(f"{line}\n" for line in lines))


def _warnings(sets: Mapping[str, _Set], left_out: Path) -> list[str]:
    warnings = []
    for name, loaded in sets.items():
        n_listed = sum(bool(entry.place) for entry in loaded.lost)
        if n_listed:
            warnings.append(f"set {name}: {n_listed} lines cannot be used: all are named in {left_out}")
        for why in sorted({entry.why for entry in loaded.lost if not entry.place}):
            lost = [entry.utterance for entry in loaded.lost if entry.why == why]
            warnings.append(
                f"set {name}: {why}: {len(lost)} left out ({join_first(lost)}): all are named in {left_out}"
            )
        triples = [(each.utterance, each.speaker, each.recording or each.utterance) for each in loaded.utterances]
        warnings += [f"set {name}: {warning}: name the person instead" for warning in speaker_warnings(triples)]
    return warnings


def _heard_before(
    partition: Partition, train_set: str | None, utterances: Mapping[str, Sequence[Utterance]]
) -> list[str]:
    """Say which target speakers the base is trained on, since a gain on them is not one on a new speaker."""
    trained = {utterance.speaker for utterance in utterances[train_set]} if train_set else set()
    heard = sorted(trained & set(partition.speakers("test")))
    if not heard:
        return []
    return [
        f"set {train_set}: {len(heard)} target speakers are in it ({join_first(heard)}): the base was trained on them"
    ]


def _summary(sets: Mapping[str, _Set], partition: Partition, warnings: tuple[str, ...], path: Path) -> DataSummary:
    lengths_s = {(name, utt): length_s for name, loaded in sets.items() for utt, length_s in loaded.durations_s.items()}
    rows_by_split: dict[str, list[tuple[str, float]]] = {}
    for row in partition.rows:
        rows_by_split.setdefault(row.split, []).append((row.speaker, lengths_s[row.set, row.utterance]))
    by_set = {
        name: _amount((utterance.speaker, loaded.durations_s[utterance.utterance]) for utterance in loaded.utterances)
        for name, loaded in sets.items()
    }
    by_split = {split: _amount(rows) for split, rows in rows_by_split.items()}
    return DataSummary(by_set, by_split, dict(partition.left_out), warnings, path)


def _amount(spoken: Iterable[tuple[str, float]]) -> Amount:
    """Count `(speaker, duration_s)` pairs."""
    pairs = list(spoken)
    return Amount(len({speaker for speaker, _ in pairs}), len(pairs), sum(length_s for _, length_s in pairs))
