"""Training clips of a speaker: with transcripts, or with words that the model is confident of."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pqm_plugin.adapters.batches import Example
from pqm_plugin.corpus.audio import is_silent
from pqm_plugin.corpus.text import AS_IS, TextFit, fit_text
from pqm_plugin.engine.data import Clip, examples_of, in_model_style
from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json, write_json
from pqm_plugin.metrics.normalize import MODEL
from pqm_plugin.models.interface import Recognizer
from pqm_plugin.personal.confidence import pick, summary
from pqm_plugin.personal.pieces import LONGEST_S, SHORTEST_S
from pqm_plugin.personal.transcript import Segment
from pqm_plugin.progress import Bar

_log = logging.getLogger(__name__)


class Transcriber(Protocol):
    """What gives the words of recordings without transcripts: a `PersonalModel`."""

    @property
    def sample_rate(self) -> int: ...
    def segments(self, audio: Any, *, trimmed: bool) -> Iterator[Segment]: ...


def own_words(
    transcriber: Transcriber,
    clips: Sequence[Clip],
    threshold: float,
    speaker: str,
    progress_file: Path,
    watch: Callable[[int, int], None] | None = None,
) -> tuple[list[Clip], dict[str, float]]:
    """The stretches of speech whose words the model is sure of, with these words as texts, and what the choice was.

    Args:
        threshold: confidence in [0, 1] that a stretch must reach.
        progress_file: keeps the words found so far, so that an interrupted run does not transcribe again.
        watch: is told how many recordings are transcribed, and of how many.

    Raises:
        PqmError: if the model is sure of nothing.
    """
    _log.info("%s: no transcripts: transcribing %d recordings first", speaker, len(clips))
    stretches: list[Clip] = []
    confidences: list[float] = []
    for clip, segments in zip(clips, _transcribed(transcriber, clips, speaker, progress_file, watch), strict=True):
        for found in segments:
            first, last = (round(time_s * transcriber.sample_rate) for time_s in (found.start_s, found.end_s))
            name = f"{clip.name} from {found.start_s:.1f} s"
            stretches.append(Clip(name, clip.samples[first:last], found.text))
            confidences.append(found.confidence if found.text else 0.0)
    picked = pick(confidences, [stretch.text for stretch in stretches], threshold)
    _log.info(
        "%s: training on %d of %d stretches, of confidence %g and more", speaker, len(picked), len(stretches), threshold
    )
    if not picked:
        raise PqmError(
            f"{speaker}: no word is certain enough in any of {len(stretches)} stretches of speech (highest confidence "
            f"{max(confidences, default=0):.2f}, wanted {threshold:g}): give transcripts, or a lower --min_confidence"
        )
    return [stretches[place] for place in picked], dict(summary(picked, confidences))


def _transcribed(
    transcriber: Transcriber, clips: Sequence[Clip], speaker: str, path: Path, watch: Callable[[int, int], None] | None
) -> list[list[Segment]]:
    rows = read_json(path) if path.exists() else []
    for clip in Bar(clips[len(rows) :], desc=f"{speaker}: transcribing", unit="recording"):
        if watch is not None:
            watch(len(rows), len(clips))
        rows.append([asdict(segment) for segment in transcriber.segments(clip.samples, trimmed=False)])
        write_json(path, rows)
    return [[Segment(**row) for row in segments] for segments in rows]


def examples(
    recognizer: Recognizer, clips: Sequence[Clip], case: str, speaker: str, style: str
) -> list[tuple[Clip, Example]]:
    """Each recording with its features and tokens; a recording that is of no use is named and left out.

    Args:
        case: of the texts, see `corpus.text.fit_text`.
        style: `corpus`, or `model` to train on the texts as the recogniser would write them, see `engine.styling`.

    Raises:
        PqmError: if none is left.
    """
    fit = fit_text([clip.text for clip in clips], recognizer.facts.symbols, case)
    if fit.unspellable:
        _log.warning("%s: %s", speaker, fit.report().splitlines()[-1])
    if style == MODEL:
        samples, texts = [clip.samples for clip in clips], [fit.apply(clip.text) for clip in clips]
        texts = in_model_style(recognizer, samples, texts)
        clips = [replace(clip, text=text) for clip, text in zip(clips, texts, strict=True)]
        fit = TextFit(AS_IS, None)
    named = (replace(clip, name=f"{speaker}: {clip.name}") for clip in clips)
    ready = examples_of(recognizer, named, fit, partial(_unusable, sample_rate=recognizer.facts.sample_rate))
    if not ready:
        raise PqmError(f"{speaker}: none of {len(clips)} recordings can be trained on, see the lines above")
    return ready


def _unusable(samples: np.ndarray, sample_rate: int) -> str:
    """Why audio (n_samples,) cannot be trained on, whatever its text; empty if it can."""
    duration_s = len(samples) / sample_rate
    if duration_s < SHORTEST_S:
        return f"it is shorter than {SHORTEST_S} s"
    if duration_s > LONGEST_S:
        return f"it is {duration_s:.0f} s long: cut it into sentences of at most {LONGEST_S:.0f} s, each with its text"
    return "nobody speaks in it: it is silent" if is_silent(samples) else ""
