"""What `report.html` shows beside the results: words of every utterance, intervals of each speaker, and the sound."""

import base64
import logging
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pqm_plugin.corpus.audio import load_audio
from pqm_plugin.corpus.kaldi import read_data_folder
from pqm_plugin.corpus.sources import as_opus
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError
from pqm_plugin.metrics.bootstrap import resample
from pqm_plugin.metrics.wer import Alignment, align, count_steps
from pqm_plugin.progress import Bar
from pqm_plugin.report.tables import OWN, describe, ordered
from pqm_plugin.report.viewer import Shown, Steps
from pqm_plugin.stages.score import Decode, finished_decodes

MOST_SOUND_BYTES = 16_000_000
"""So much Ogg/Opus at most is in a page, some hundred minutes; what is beyond it is linked."""
_RATE = 16000
_N_RESAMPLES = 2000
FULL = "full"

Intervals = Mapping[str, Mapping[str, tuple[float, float]]]


def viewed_words(
    model_dir: Path, decoded: str, data: Path, results: Mapping[str, Any]
) -> tuple[list[Shown], Intervals, str]:
    """Utterances of a decoded set with words and sound, intervals by speaker and system, and where the sound is.

    All are empty, with a warning, where the decodes are gone or are not those that the results count.

    Args:
        model_dir, decoded: the folders `decode_<system>/<decoded>` of a model.
        data: the Kaldi folder of the set, for its audio.
        results: of this set.
    """
    try:
        decodes = finished_decodes(model_dir, decoded)
    except PqmError as error:
        logging.warning("report.html shows no words: %s", error)
        return [], {}, ""
    systems = ordered(results["systems"])
    if missing := [system for system in systems if system not in decodes]:
        logging.warning("report.html shows no words: %s is not decoded any more", missing[0])
        return [], {}, ""
    aligned = {system: _aligned(decodes[system]) for system in systems}
    for system in systems:
        if sum(count_steps(steps).errors for steps in aligned[system]) != results["systems"][system]["errors"]:
            logging.warning("report.html shows no words: %s was decoded again; run stage 7 (score) first", system)
            return [], {}, ""
    scored = decodes[systems[0]].scored
    steps = [[_compact(aligned[system][place]) for system in systems] for place in range(len(scored))]
    sounds, said = _sounds([one.utterance for one in scored], steps, data, model_dir)
    shown = [
        Shown(one.utterance, one.speaker, " ".join(one.reference.split()), steps[place], sounds.get(one.utterance))
        for place, one in enumerate(scored)
    ]
    return shown, _intervals([one.speaker for one in scored], aligned), said


def example_lines(shown: Sequence[Shown], systems: Sequence[str], model_dir: Path, data: Path) -> list[str]:
    """One recording before and after, errors marked, and the command that transcribes it; empty without these systems.

    It is the first utterance of which the speaker's own adapter makes other errors than the base in full precision.
    """
    if not {FULL, OWN} <= set(systems):
        return []
    before, after = systems.index(FULL), systems.index(OWN)
    differing = [one for one in shown if one.hyps[before] != one.hyps[after]]
    if not differing:
        return []
    one = differing[0]
    lines = [
        f"{one.id}, the first test recording on which they differ; *another word*, (left out), +not said+:",
        f"  said    {one.ref}",
        f"  before  {_marked(one.ref, one.hyps[before])}   ({describe(FULL)})",
        f"  after   {_marked(one.ref, one.hyps[after])}   ({describe(OWN)})",
    ]
    audio = next((each.audio for each in read_data_folder(data) if each.utterance == one.id), "")
    if Path(audio).is_file():
        beside = Path(sys.executable).with_name("pqm")
        program = "pqm" if shutil.which("pqm") or not beside.is_file() else str(beside)
        call = [program, "transcribe", str(model_dir), audio, "--speaker", one.speaker]
        lines.append(f"next: {shlex.join(call)}")
    return lines


def _marked(reference: str, steps: Steps) -> str:
    """A hypothesis with its errors marked in plain text."""
    words, place, said = reference.split(), 0, list[str]()
    for step in steps:
        if isinstance(step, int):
            said += words[place : place + step]
            place += step
        elif step[0] == "I":
            said.append(f"+{step[1]}+")
        else:
            said.append(f"*{step[1]}*" if step[0] == "S" else f"({words[place]})")
            place += 1
    return " ".join(said)


def _aligned(decode: Decode) -> list[Alignment]:
    return align([one.reference for one in decode.scored], [one.hypothesis for one in decode.scored])


def _compact(alignment: Alignment) -> Steps:
    """An alignment, with how many words are right in place of these words."""
    steps: list[int | tuple[str, ...]] = []
    for step in alignment:
        if step.kind != "C":
            steps.append(("D",) if step.kind == "D" else (step.kind, step.hypothesis))
        elif steps and isinstance(steps[-1], int):
            steps[-1] += 1
        else:
            steps.append(1)
    return steps  # type: ignore[return-value]


def _intervals(speakers: Sequence[str], aligned: Mapping[str, Sequence[Alignment]]) -> Intervals:
    """By speaker and system the ends of the interval of the WER over the speaker's own utterances."""
    found = {}
    for speaker in sorted(set(speakers)):
        places = [place for place, name in enumerate(speakers) if name == speaker]
        counts = {system: [count_steps(steps[place]) for place in places] for system, steps in aligned.items()}
        words = [count.words for count in next(iter(counts.values()))]
        if sum(words):
            errors = {system: [count.errors for count in each] for system, each in counts.items()}
            drawn = resample(errors, words, [speaker] * len(places), 0, _N_RESAMPLES)
            found[speaker] = {system: drawn.interval(system) for system in errors}
    return found


def _sounds(
    names: Sequence[str], steps: Sequence[Sequence[Steps]], data: Path, folder: Path
) -> tuple[dict[str, tuple[str, str]], str]:
    """The sound of utterances within the bound, those first about whose words the systems disagree, and links."""
    try:
        known = {one.utterance: one for one in read_data_folder(data)}
    except (PqmError, OSError) as error:
        logging.warning("report.html has no sound: %s", error)
        return {}, "The recordings were not there when the page was written."
    order = sorted(range(len(names)), key=lambda place: len({repr(one) for one in steps[place]}) == 1)
    sounds: dict[str, tuple[str, str]] = {}
    left, problems = MOST_SOUND_BYTES, list[str]()
    there = [known[names[place]] for place in order if names[place] in known]
    for utterance in Bar(there, desc="sound for report.html", unit="utterance", delay=5):
        encoded = _opus(utterance, problems) if left > 0 else None
        if encoded is not None and len(encoded) <= left:
            sounds[utterance.utterance] = ("o", base64.b64encode(encoded).decode())
            left -= len(encoded)
            continue
        left = left if encoded is None else 0
        if link := _link(utterance, folder):
            sounds[utterance.utterance] = ("l", link)
    if problems:
        logging.warning("report.html lacks the sound of %d utterances, the first: %s", len(problems), problems[0])
    inside = sum(kind == "o" for kind, _ in sounds.values())
    said = f"The sound of {inside} utterances is in this page, as Ogg/Opus at a low rate"
    linked = len(sounds) - inside
    return sounds, said + (f"; that of {linked} is linked: keep the page where it is." if linked else ".")


def _opus(utterance: Utterance, problems: list[str]) -> bytes | None:
    try:
        return as_opus(load_audio(utterance, _RATE), _RATE)
    except (PqmError, OSError) as error:
        problems.append(str(error))
        return None


def _link(utterance: Utterance, folder: Path) -> str:
    """A relative link to the recording, with the part that is meant; "" where it is no file."""
    path = Path(utterance.audio)
    if not path.is_absolute() or not path.is_file():
        return ""
    place = Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    quoted = quote(os.fsencode(place))
    if utterance.start_s is None:
        return quoted
    return f"{quoted}#t={utterance.start_s:g}" + (f",{utterance.end_s:g}" if utterance.end_s is not None else "")
