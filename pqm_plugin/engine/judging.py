"""Estimate by held-out recordings whether an adapter helps its speaker.

Recordings are held out in blocks: neighbours share a session, a room and often a text. Words are counted, not the
teacher-forced loss, which falls on such neighbours whether or not a single word gets better.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pqm_plugin.adapters.batches import Example
from pqm_plugin.adapters.files import load_adapter
from pqm_plugin.adapters.train import train_adapter
from pqm_plugin.engine.data import Clip
from pqm_plugin.engine.learn import TrainingSetup
from pqm_plugin.files import read_json, write_json
from pqm_plugin.metrics.bootstrap import resample
from pqm_plugin.metrics.normalize import normalizer_of
from pqm_plugin.metrics.wer import counts
from pqm_plugin.models.interface import Recognizer
from pqm_plugin.models.replay import prepare_loss, training_loss

_log = logging.getLogger(__name__)
BEFORE, AFTER, OTHER = "before", "after", "other"


@dataclass(frozen=True)
class HeldOut:
    """Word errors of one speaker's recordings, each decoded by an adapter that was not trained on it.

    `before`: with the adapter that training starts from, or none; `after`: with what was trained on the other blocks;
    `other`: with another speaker's adapter, None where there is none. `reduction` is relative, negative where there are
    more errors, None where there were none before; `ci95` is its interval over recordings. Words are normalised.
    """

    n_recordings: int
    n_words: int
    before: int
    after: int
    other: int | None
    reduction: float | None
    ci95: tuple[float | None, float | None]

    @property
    def is_better(self) -> bool:
        """Whether there are fewer errors than before."""
        return self.after < self.before

    @property
    def gain_shown(self) -> bool:
        """Whether the interval excludes zero."""
        return self.ci95[0] is not None and self.ci95[0] > 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"ci95": list(self.ci95), "gain_shown": self.gain_shown}

    def sentence(self) -> str:
        """One line for people."""
        change = "no errors before"
        if self.reduction is not None:
            low, high = ("?" if end is None else f"{100 * end:+.0f}" for end in self.ci95)
            more = "fewer" if self.reduction >= 0 else "more"
            change = f"{100 * abs(self.reduction):.0f} % {more}, 95 % interval of the reduction {low} to {high} %"
        other = "" if self.other is None else f", {self.other} with another speaker's adapter"
        return (
            f"{self.n_recordings} held-out recordings, {self.n_words} words: {self.before} errors before, {self.after} "
            f"after ({change}){other}"
        )


def judge(
    setup: TrainingSetup,
    ready: Sequence[tuple[Clip, Example]],
    n_folds: int,
    split: Callable[[int], Sequence[int]],
    scratch: Path,
    label: str,
    language: str,
    other: tuple[Path, str] | None = None,
    watch: Callable[[int, int], None] | None = None,
) -> HeldOut:
    """Train on all blocks but one, decode that one, and so on; the model is as before when this returns.

    Args:
        setup: with an adapter that is at its start.
        ready: recordings in the order in which they were made, with what is trained on of each.
        n_folds: blocks, from 2 to the number of recordings.
        split: gives of so many recordings the places of those that choose the epoch.
        scratch: a file that holds what is done; a run that was cut off goes on from it. The caller deletes it.
        language: code of the language, which decides the normaliser.
        other: folder of another speaker's adapter, and the hash of the base that it must be for.
        watch: is told after each block how many are done, and of how many.
    """
    parameters = {name: value for name, value in setup.model.named_parameters() if value.requires_grad}
    start = {name: value.detach().clone() for name, value in parameters.items()}
    clips = [clip for clip, _ in ready]
    rows: dict[str, list[str]] = read_json(scratch) if scratch.exists() else {}

    def noted(key: str, make: Callable[[], list[str]]) -> list[str]:
        if key not in rows:
            rows[key] = make()
            write_json(scratch, rows)
        return rows[key]

    written: dict[str, list[str]] = {BEFORE: noted(BEFORE, lambda: _words(setup.recognizer, clips)), AFTER: []}
    for fold in range(n_folds):
        if watch is not None:
            watch(fold, n_folds)
        block = range(fold * len(ready) // n_folds, (fold + 1) * len(ready) // n_folds)
        checkpoint = scratch.with_name(f"{scratch.stem}.fold{fold}")
        train = partial(_held_out, setup, ready, block, split, checkpoint, f"{label}: held out {fold + 1}/{n_folds}")
        written[AFTER] += noted(f"{AFTER} {fold + 1}/{n_folds}", train)
        checkpoint.unlink(missing_ok=True)
        with torch.no_grad():
            for name, value in parameters.items():
                value.copy_(start[name])
    if other is not None:
        written[OTHER] = noted(OTHER, lambda: _with_other(setup, clips, *other))
        for name, value in setup.model.named_parameters():
            value.requires_grad = name in parameters
    if watch is not None:
        watch(n_folds, n_folds)
    return compare([clip.text for clip in clips], written, language)


def compare(references: Sequence[str], written: Mapping[str, Sequence[str]], language: str) -> HeldOut:
    """Count the errors of each system, and compare those before and after.

    Args:
        written: hypotheses by system: `before`, `after`, and `other` where there is one.
    """
    normalize = normalizer_of(language)
    said = [normalize(text) for text in references]
    found = {
        system: [counts(reference, normalize(text)) for reference, text in zip(said, texts, strict=True)]
        for system, texts in written.items()
    }
    errors = {system: [count.errors for count in each] for system, each in found.items()}
    n_words = [count.words for count in found[BEFORE]]
    resampled = resample(errors, n_words, [""] * len(said), seed=0)
    gain = resampled.compare(AFTER, BEFORE)
    totals = {system: sum(each) for system, each in errors.items()}
    return HeldOut(
        len(said),
        sum(n_words),
        totals[BEFORE],
        totals[AFTER],
        totals.get(OTHER),
        gain.relative_wer_reduction,
        gain.ci95,
    )


def _held_out(
    setup: TrainingSetup,
    ready: Sequence[tuple[Clip, Example]],
    block: range,
    split: Callable[[int], Sequence[int]],
    checkpoint: Path,
    label: str,
) -> list[str]:
    """The words of a block by an adapter that was trained on the rest."""
    rest = [example for place, (_, example) in enumerate(ready) if place not in block]
    places = set(split(len(rest)))
    train = [example for place, example in enumerate(rest) if place not in places]
    dev = [rest[place] for place in sorted(places)] or train
    loss, prepare = partial(training_loss, setup.recognizer), partial(prepare_loss, setup.recognizer)
    train_adapter(setup.model, loss, train, dev, setup.options, setup.seed * 1000, checkpoint, label, prepare)
    return _words(setup.recognizer, [ready[place][0] for place in block])


def _words(recognizer: Recognizer, clips: Sequence[Clip]) -> list[str]:
    """What the recogniser writes of each clip, as the network stands."""
    was_training = recognizer.network.training
    recognizer.network.eval()
    with torch.no_grad():
        found = [
            " ".join(one.text for one in recognizer.recognize(recognizer.pieces(clip.samples)) if one.text)
            for clip in clips
        ]
    recognizer.network.train(was_training)
    return found


def _with_other(setup: TrainingSetup, clips: Sequence[Clip], folder: Path, base_sha256: str) -> list[str]:
    """The words by another speaker's adapter, which is gone from the network afterwards."""
    model = load_adapter(setup.model, folder, base_sha256, name=OTHER)
    try:
        return _words(setup.recognizer, clips)
    finally:
        model.set_adapter("default")
        model.delete_adapter(OTHER)
