"""Enrol a speaker: train an adapter on recordings, or adopt one that plain PEFT made."""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from pqm_plugin.adapters.files import AdapterInfo, adapter_answering, read_info
from pqm_plugin.adapters.options import WEIGHTS
from pqm_plugin.corpus.text import AS_IS, AUTO, CASES
from pqm_plugin.engine.data import style_of
from pqm_plugin.engine.judging import HeldOut, judge
from pqm_plugin.engine.learn import (
    TrainingData,
    TrainingSetup,
    attach_adapter,
    learn,
    save_start,
    scratch_file,
    sweep_scratch,
)
from pqm_plugin.errors import PqmError
from pqm_plugin.files import exclusive, refusal_as_error, sha256
from pqm_plugin.metrics.normalize import CORPUS, MODEL
from pqm_plugin.models.families import family_of
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.personal.clips import Clip, Transcriber, examples, own_words
from pqm_plugin.personal.confidence import held_out
from pqm_plugin.personal.folder import SPEAKERS, ModelFolder
from pqm_plugin.personal.opening import Opened, open_packed
from pqm_plugin.personal.options import JUDGED, EnrollOptions

_log = logging.getLogger(__name__)
_FOUND, _HELD_OUT = "own_words", "held_out"
_REMEDY = "record more, or check that the texts are what is said"
Watch = Callable[[str, int, int], None]
"""Is told what is being done, `listening` (recordings) or `learning` (batches), how many are done, and of how many.

What it raises ends the enrolment as a kill would: an earlier adapter stays, and the same call goes on from there.
"""


@dataclass(frozen=True)
class Enrolled:
    """What an enrolment gave: where the adapter is, from how much speech, and which epoch was kept.

    `is_new` is False where the same recordings had been trained on already. `held_out` is what recordings say that
    were kept aside in turn, None where there were too few, or no texts; `keeps_own` is False where they got no better,
    so that the speaker-independent model is kept for the speaker.
    """

    speaker: str
    folder: Path
    n_clips: int
    duration_s: float
    best_epoch: int
    is_new: bool
    held_out: HeldOut | None = None
    keeps_own: bool = True


def enroll(
    folder: ModelFolder,
    speaker: str,
    clips: Sequence[Clip],
    options: EnrollOptions,
    search: SearchOptions,
    transcriber: Transcriber | None = None,
    device: str = "cpu",
    watch: Watch | None = None,
) -> Enrolled:
    """Train the adapter of a speaker and write it; quick where the very same is there.

    Args:
        transcriber: whose words are trained on, where it is sure of them; None: the clips have texts.

    Raises:
        PqmError: see `PersonalModel.enroll`.
    """
    target = folder.speaker(speaker)
    _check(folder, speaker, clips, has_texts=transcriber is None)
    listening, learning = (partial(watch, step) if watch else None for step in ("listening", "learning"))
    root = folder.path / SPEAKERS
    with refusal_as_error(target), exclusive(root / f".{speaker}.lock", "another speaker name"):
        request = _request(folder, clips, options, search, unsupervised=transcriber is not None)
        if earlier := adapter_answering(target, request, aside=(_FOUND, _HELD_OUT)):
            _log.info("%s is there already, from the same recordings", target)
            sweep_scratch(root, {speaker})
            return _enrolled(folder, clips, earlier, is_new=False)
        found: dict[str, float] = {}
        if transcriber is not None:
            progress = scratch_file(target, request, "heard")
            clips, found = own_words(transcriber, clips, options.min_confidence, speaker, progress, listening)
        data = TrainingData([], [], request, target, speaker, _REMEDY, {_FOUND: found})
        _learn(folder, open_packed(folder, search, device), clips, options, data, search.language, learning)
        sweep_scratch(root, {speaker})
    return _enrolled(folder, clips, read_info(target), is_new=True)


def forget(folder: ModelFolder, speaker: str) -> None:
    """Remove the adapter and the words of a speaker, and what enrolments that were cut off left to go on from.

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
        folder.words_file(speaker).unlink(missing_ok=True)
        shutil.rmtree(gone)
        # The recipes' list of what is done is written again without the speaker.
        (root / "index.tsv").unlink(missing_ok=True)
        sweep_scratch(root, {speaker})


def _check(folder: ModelFolder, speaker: str, clips: Sequence[Clip], *, has_texts: bool) -> None:
    for known in folder.speakers():
        # On another system the two would be one folder.
        if known != speaker and known.lower() == speaker.lower():
            raise PqmError(f"speaker name {speaker!r}: there is {known!r}; names must differ in more than letter case")
    if not clips:
        raise PqmError(f"{speaker}: there are no recordings to train on")
    if has_texts and not any(clip.text.strip() for clip in clips):
        raise PqmError(f"{speaker}: the texts are empty: give the words, or leave the texts out")


def _request(
    folder: ModelFolder, clips: Sequence[Clip], options: EnrollOptions, search: SearchOptions, *, unsupervised: bool
) -> dict[str, Any]:
    """What an adapter depends on; an equal request has an equal adapter."""
    sat = folder.sat()
    family = family_of(folder.path)
    later = ("target_style", "folds", "keep")
    enroll = {name: value for name, value in asdict(options).items() if name not in later}
    style = CORPUS if unsupervised else _style(folder, clips, options)
    content = hashlib.sha256()
    for clip in clips:
        content.update(json.dumps([clip.text, len(clip.samples)]).encode() + clip.samples.tobytes())
    return {
        "base_sha256": sha256(folder.packed),
        "start_sha256": sha256(sat / WEIGHTS) if sat else "",
        "enroll": enroll | ({} if unsupervised else {"min_confidence": None}),
        # Adapters of earlier versions were trained on texts as they were given, and say nothing of it.
        **({"target_style": MODEL} if style == MODEL else {}),
        # To keep the adapter in any case is what earlier versions did; where it helps, it is the same.
        **({"keep": options.keep} if options.keep != EnrollOptions().keep else {}),
        "search": family.search_options(search) if unsupervised else family.training_options(search),
        "unsupervised": unsupervised,
        "clips": content.hexdigest(),
        "n_clips": len(clips),
    }


def _learn(
    folder: ModelFolder,
    opened: Opened,
    clips: Sequence[Clip],
    options: EnrollOptions,
    data: TrainingData,
    language: str,
    watch: Callable[[int, int], None] | None,
) -> None:
    """See whether learning helps, train on the clips, from `sat` on if there is one, and save the better one."""
    recognizer, lora, sat = opened.recognizer, options.lora(), folder.sat()
    style = data.request.get("target_style", CORPUS)
    ready = examples(recognizer, clips, _text_case(sat), data.name, style)
    model = attach_adapter(recognizer, opened.sha256, sat, lora, options.seed)
    setup = TrainingSetup(recognizer, model, options.training(len(ready)), options.seed, lora.max_fraction)
    if options.folds and len(ready) >= JUDGED and not data.request["unsupervised"]:
        scratch = scratch_file(data.folder, data.request, "judged")
        others = [name for name in folder.speakers() if name != data.name]
        other = (folder.speaker(others[0]), opened.sha256) if others else None
        held = judge(setup, ready, options.folds, held_out, scratch, data.name, language, other)
        _log.info("%s: %s", data.name, held.sentence())
        data = replace(data, found=data.found | {_HELD_OUT: held.as_dict()})
        if not held.is_better and options.keep == "better":
            _log.warning("%s: no gain shown: the speaker-independent model is kept; --keep own overrules it", data.name)
            save_start(setup, data)
            return
    places = set(held_out(len(ready)))
    train = [example for place, (_, example) in enumerate(ready) if place not in places]
    # Of one or two recordings none can be spared: they themselves then tell that the loss does not run away.
    dev = [ready[place][1] for place in sorted(places)] or train
    learn(setup, replace(data, train=train, dev=dev), watch)


def _style(folder: ModelFolder, clips: Sequence[Clip], options: EnrollOptions) -> str:
    """How the texts of clips are styled, see `EnrollOptions.target_style`."""
    writes_case = family_of(folder.path).facts(folder.path).writes_case
    return style_of(options.target_style, [clip.text for clip in clips], writes_case=writes_case)


def _text_case(sat: Path | None) -> str:
    """The letter case that a recipe had to give its texts; where they were right as they were, users' may not be."""
    case = read_info(sat).request.get("text_case") if sat else AUTO
    return str(case) if case in CASES and case != AS_IS else AUTO


def _enrolled(folder: ModelFolder, clips: Sequence[Clip], info: AdapterInfo, *, is_new: bool) -> Enrolled:
    rate = family_of(folder.path).facts(folder.path).sample_rate
    duration_s = sum(len(clip.samples) for clip in clips) / rate
    held = held_out_of(info)
    # It is in a request only where it is not the default: `own`.
    overruled = bool(info.request.get("keep"))
    keeps_own = held is None or held.is_better or overruled
    target = folder.speaker(info.trained_on)
    return Enrolled(info.trained_on, target, len(clips), duration_s, info.best_epoch, is_new, held, keeps_own)


def held_out_of(info: AdapterInfo) -> HeldOut | None:
    """What an enrolment noted of held-out recordings; None if nothing."""
    noted = info.request.get(_HELD_OUT)
    if not isinstance(noted, dict):
        return None
    try:
        return HeldOut(**{field.name: noted[field.name] for field in fields(HeldOut)} | {"ci95": tuple(noted["ci95"])})
    except (KeyError, TypeError):
        return None
