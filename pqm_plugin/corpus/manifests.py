"""Utterances as manifests of lhotse: recordings, supervisions and cuts of a set, for recipes of k2."""

import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pqm_plugin.corpus.audio import AudioInfo, is_archive, probe
from pqm_plugin.corpus.readers.lhotse import library
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.files import whole_file

KINDS = ("recordings", "supervisions", "cuts")


def write_manifests(
    folder: Path, set_name: str, utterances: Sequence[Utterance], splits: Mapping[str, str]
) -> list[str]:
    """Write `KIND_SET.jsonl.gz` of each kind into `folder`; the same utterances give the same bytes.

    Args:
        splits: by utterance, the split of the partition that it is in, which its supervision keeps as `custom.split`.

    Returns:
        Names of the utterances that are left out: lhotse reads no archive of Kaldi.

    Raises:
        PqmError: if lhotse is not installed, or a recording cannot be read.
    """
    library()
    ordered = sorted(utterances, key=lambda each: each.utterance)
    left_out = [each.utterance for each in ordered if is_archive(each.audio)]
    kept = [each for each in ordered if not is_archive(each.audio)]
    recordings: dict[str, Any] = {}
    supervisions, cuts = [], []
    for utterance in kept:
        name = utterance.recording or utterance.utterance
        if name not in recordings:
            recordings[name] = _recording(name, utterance)
        supervision, cut = _spoken(recordings[name], utterance, splits.get(utterance.utterance))
        supervisions.append(supervision)
        cuts.append(cut)
    for kind, items in zip(KINDS, (recordings.values(), supervisions, cuts), strict=True):
        _write(folder / f"{kind}_{set_name}.jsonl.gz", (item.to_dict() for item in items))
    return left_out


def _recording(name: str, utterance: Utterance) -> Any:
    from lhotse import AudioSource, Recording

    found: AudioInfo = probe(replace(utterance, start_s=None, end_s=None, channel=None))
    channels = list(range(found.n_channels))
    is_command = utterance.audio.rstrip().endswith("|")
    source = utterance.audio.rstrip().removesuffix("|").rstrip() if is_command else utterance.audio
    return Recording(
        id=name,
        sources=[AudioSource("command" if is_command else "file", channels, source)],
        sampling_rate=found.sample_rate,
        num_samples=found.n_samples,
        duration=found.n_samples / found.sample_rate,
        channel_ids=channels,
    )


def _spoken(recording: Any, utterance: Utterance, split: str | None) -> tuple[Any, Any]:
    """The supervision of an utterance, with times of its recording, and the cut that holds just it."""
    from lhotse import MonoCut, MultiCut, SupervisionSegment

    start_s = utterance.start_s or 0.0
    end_s = recording.duration if utterance.end_s is None else min(utterance.end_s, recording.duration)
    whole = recording.channel_ids if len(recording.channel_ids) > 1 else recording.channel_ids[0]
    channel = whole if utterance.channel is None else utterance.channel
    supervision = SupervisionSegment(
        id=utterance.utterance,
        recording_id=recording.id,
        start=start_s,
        duration=round(end_s - start_s, 8),
        channel=channel,
        text=utterance.text,
        speaker=utterance.speaker,
        custom={"split": split} if split else None,
    )
    kind = MultiCut if isinstance(channel, list) else MonoCut
    cut = kind(
        id=utterance.utterance,
        start=start_s,
        duration=supervision.duration,
        channel=channel,
        supervisions=[replace(supervision, start=0.0)],
        recording=recording,
    )
    return supervision, cut


def _write(path: Path, items: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as scratch, scratch.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as out:
        for item in items:
            out.write(json.dumps(item, ensure_ascii=False).encode() + b"\n")
