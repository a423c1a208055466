"""Learn one voice: from recordings to an adapter in the model's folder."""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pqm_plugin.adapters import library
from pqm_plugin.adapters.files import AdapterInfo, load_adapter, read_info, save_adapter
from pqm_plugin.adapters.lora import attach, parameter_counts
from pqm_plugin.adapters.options import WEIGHTS
from pqm_plugin.adapters.train import train_adapter
from pqm_plugin.corpus.text import AS_IS, AUTO, CASES
from pqm_plugin.errors import PqmError
from pqm_plugin.files import exclusive, refusal_as_error, sha256
from pqm_plugin.models.families import family_of
from pqm_plugin.models.interface import Recognizer
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.models.replay import prepare_loss, training_loss
from pqm_plugin.personal.clips import Clip, Hears, examples, own_words
from pqm_plugin.personal.confidence import held_out
from pqm_plugin.personal.folder import SPEAKERS, ModelFolder, is_adapter
from pqm_plugin.personal.opening import open_packed
from pqm_plugin.personal.options import EnrollOptions

_log = logging.getLogger(__name__)
_FOUND = "own_words"
Watch = Callable[[str, int, int], None]
"""Is told what is being done, `listening` (recordings) or `learning` (batches), how many are done, and of how many.

What it raises ends the enrolment as a kill would: an earlier adapter stays, and the same call goes on from there.
"""


@dataclass(frozen=True)
class Enrolled:
    """What an enrolment gave: where the adapter is, from how much it learned, and which epoch was kept.

    `is_new` is False where the same recordings had been learned from already.
    """

    speaker: str
    folder: Path
    n_clips: int
    duration_s: float
    best_epoch: int
    is_new: bool


def enroll(
    folder: ModelFolder,
    speaker: str,
    clips: Sequence[Clip],
    options: EnrollOptions,
    search: SearchOptions,
    hears: Hears | None = None,
    device: str = "cpu",
    watch: Watch | None = None,
) -> Enrolled:
    """Train the adapter of a speaker and write it; quick where the very same is there.

    Args:
        hears: whose words are learned from, where it is sure of them; None: the clips have texts.

    Raises:
        PqmError: see `PersonalModel.enroll`.
    """
    target = folder.speaker(speaker)
    _check(folder, speaker, clips, has_texts=hears is None)
    listening, learning = (partial(watch, step) if watch else None for step in ("listening", "learning"))
    root = folder.path / SPEAKERS
    with refusal_as_error(target), exclusive(root / f".{speaker}.lock", "another speaker name"):
        request = _request(folder, clips, options, search, unsupervised=hears is not None)
        earlier = _earlier(target)
        if earlier is not None and _asked(earlier.request) == request:
            _log.info("%s is there already, from the same recordings", target)
            _sweep(root, speaker)
            return _enrolled(folder, speaker, clips, earlier.best_epoch, is_new=False)
        checkpoint, heard = (root / f".{speaker}.{_short(request)}.{end}" for end in ("train", "heard"))
        found: dict[str, float] = {}
        if hears is not None:
            clips, found = own_words(hears, clips, options.min_confidence, speaker, heard, listening)
        asked = request | {_FOUND: found}
        best_epoch = _train(folder, speaker, clips, options, search, asked, checkpoint, device, learning)
        _sweep(root, speaker)
    return _enrolled(folder, speaker, clips, best_epoch, is_new=True)


def forget(folder: ModelFolder, speaker: str) -> None:
    """Remove the adapter of a speaker, and what enrolments that were cut off left to go on from.

    Raises:
        PqmError: if there is no such speaker, it is being enrolled, or the folder may not be written.
    """
    target = folder.known_speaker(speaker)
    root = folder.path / SPEAKERS
    with refusal_as_error(target), exclusive(root / f".{speaker}.lock", "another speaker name"):
        # Renamed first: a process that is killed leaves the adapter whole, or no speaker.
        gone = root / f".{speaker}.gone"
        shutil.rmtree(gone, ignore_errors=True)
        target.replace(gone)
        shutil.rmtree(gone)
        # The recipes' list of what is done is written again without the speaker.
        (root / "index.tsv").unlink(missing_ok=True)
        _sweep(root, speaker)


def _check(folder: ModelFolder, speaker: str, clips: Sequence[Clip], *, has_texts: bool) -> None:
    for known in folder.speakers():
        # On another system the two would be one folder.
        if known != speaker and known.lower() == speaker.lower():
            raise PqmError(f"speaker name {speaker!r}: there is {known!r}; names must differ in more than letter case")
    if not clips:
        raise PqmError(f"{speaker}: there are no recordings to learn from")
    if has_texts and not any(clip.text.strip() for clip in clips):
        raise PqmError(f"{speaker}: the texts are empty: give the words, or leave the texts out")


def _earlier(target: Path) -> AdapterInfo | None:
    try:
        return read_info(target) if is_adapter(target) else None
    except PqmError as error:
        _log.warning("%s; learning it anew", error)
        return None


def _asked(request: Mapping[str, Any]) -> dict[str, Any]:
    """The request as it was asked, without what was found on the way."""
    return {key: value for key, value in request.items() if key != _FOUND}


def _request(
    folder: ModelFolder, clips: Sequence[Clip], options: EnrollOptions, search: SearchOptions, *, unsupervised: bool
) -> dict[str, Any]:
    """What an adapter depends on; an equal request has an equal adapter."""
    sat = folder.sat()
    family = family_of(folder.path)
    heard = hashlib.sha256()
    for clip in clips:
        heard.update(json.dumps([clip.text, len(clip.samples)]).encode() + clip.samples.tobytes())
    return {
        "base_sha256": sha256(folder.packed),
        "start_sha256": sha256(sat / WEIGHTS) if sat else "",
        "enroll": asdict(options) | ({} if unsupervised else {"min_confidence": None}),
        "search": family.search_options(search) if unsupervised else family.training_options(search),
        "unsupervised": unsupervised,
        "clips": heard.hexdigest(),
        "n_clips": len(clips),
    }


def _short(request: Mapping[str, Any]) -> str:
    """Names what an interrupted run leaves: one with other recordings or settings is not gone on with."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:12]


def _sweep(root: Path, speaker: str) -> None:
    """Remove what runs for a speaker, this one and those that were cut off, kept to go on from."""
    for path in root.glob(f".*{speaker}.*"):
        if re.fullmatch(rf"\.{{1,2}}{re.escape(speaker)}\.[0-9a-f]{{12}}\.(train|heard)(\.partial)?", path.name):
            path.unlink(missing_ok=True)


def _train(
    folder: ModelFolder,
    speaker: str,
    clips: Sequence[Clip],
    options: EnrollOptions,
    search: SearchOptions,
    request: dict[str, Any],
    checkpoint: Path,
    device: str,
    watch: Callable[[int, int], None] | None,
) -> int:
    """Train and save; returns the epoch that was kept."""
    opened = open_packed(folder, search, device)
    sat = folder.sat()
    ready = examples(opened.recognizer, clips, _text_case(sat), speaker)
    if sat:
        model = load_adapter(opened.recognizer.network, sat, opened.sha256, trainable=True)
    else:
        model = _fresh(opened.recognizer, options)
    places = set(held_out(len(ready)))
    train = [example for place, example in enumerate(ready) if place not in places]
    # Of one or two recordings none can be spared: they themselves then tell that the loss does not run away.
    dev = [ready[place] for place in sorted(places)] or train
    training, seed = options.training(len(ready)), options.seed * 1000
    loss, prepare = partial(training_loss, opened.recognizer), partial(prepare_loss, opened.recognizer)
    result = train_adapter(model, loss, train, dev, training, seed, checkpoint, speaker, prepare, watch)
    if result.best_epoch == 0 and not sat:
        raise PqmError(
            f"{speaker}: what was learned from {len(train)} recordings is no better than nothing: record more, or "
            "check that the texts are what is said"
        )
    trainable, base = parameter_counts(model)
    info = AdapterInfo(opened.sha256, speaker, trainable, base, result.best_epoch, request, result.log)
    save_adapter(folder.speaker(speaker), model, info)
    return result.best_epoch


def _fresh(recognizer: Recognizer, options: EnrollOptions) -> "library.PeftModel":
    torch.manual_seed(options.seed)
    targets = recognizer.adapter_targets(options.targets)
    return attach(recognizer.network, targets, options.rank, options.alpha, options.dropout)


def _text_case(sat: Path | None) -> str:
    """The letter case that a recipe had to give its texts; where they were right as they were, users' may not be."""
    case = read_info(sat).request.get("text_case") if sat else AUTO
    return str(case) if case in CASES and case != AS_IS else AUTO


def _enrolled(folder: ModelFolder, speaker: str, clips: Sequence[Clip], best_epoch: int, *, is_new: bool) -> Enrolled:
    rate = family_of(folder.path).facts(folder.path).sample_rate
    duration_s = sum(len(clip.samples) for clip in clips) / rate
    return Enrolled(speaker, folder.speaker(speaker), len(clips), duration_s, best_epoch, is_new)
