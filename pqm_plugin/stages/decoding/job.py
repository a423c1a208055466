"""Decode some speakers in one process."""

import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel

from pqm_plugin.adapters.files import load_adapter
from pqm_plugin.adapters.lora import switched_off
from pqm_plugin.corpus.audio import load_audio
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError
from pqm_plugin.stages.common.material import Material, examples
from pqm_plugin.stages.common.opening import Opened, open_base
from pqm_plugin.stages.decoding.parts import Line
from pqm_plugin.stages.decoding.task import DecodeTask


def decode_speakers(task: DecodeTask, share: Sequence[str], counter: Path) -> None:
    """Decode what is missing of the speakers in `share`; the base is loaded once, adapters are switched."""
    material = Material(task.recipe)
    opened = open_base(task.recipe, task.system.base_kind)
    model: PeftModel | None = None
    for speaker in share:
        part = task.part(material, speaker)
        if not part.missing:
            continue
        wanted = [found for found in material.utterances(task.split, speaker) if found.utterance in part.missing]
        folder = task.adapter(speaker)
        if folder is not None:
            model = load_adapter(model or opened.recognizer.network, folder, opened.weights_sha256)
            model.eval()
            _check_effect(material, opened, model, wanted, folder)
        part.start()
        for utterance in wanted:
            part.append(_decode(opened, utterance))
            with counter.open("a", encoding="utf-8") as done:
                done.write(f"{utterance.utterance}\n")


def _decode(opened: Opened, utterance: Utterance) -> Line:
    audio = load_audio(utterance, opened.recognizer.sample_rate)
    start = time.perf_counter()
    found = opened.recognizer.recognize(audio)
    decode_s = time.perf_counter() - start
    audio_s = len(audio) / opened.recognizer.sample_rate
    return Line(utterance.utterance, found.text, found.score, audio_s, decode_s, peak_rss_bytes())


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _check_effect(
    material: Material, opened: Opened, model: PeftModel, wanted: Sequence[Utterance], folder: Path
) -> None:
    """An adapter that loads but changes nothing would be reported as one that does not help.

    Raises:
        PqmError: if the loss of an utterance is the same with and without the adapter.
    """
    recognizer = opened.recognizer
    fit = material.fit(recognizer.symbols)
    example = next((ready for utterance in wanted for ready in examples(recognizer, [utterance], fit)), None)
    if example is None:
        return
    with torch.no_grad():
        with_adapter = recognizer.loss([example.features], [example.tokens]).total
        with switched_off(model):
            without = recognizer.loss([example.features], [example.tokens]).total
    if torch.equal(with_adapter, without):
        raise PqmError(f"{folder}: the adapter does not change the output; delete it and run its stage again")
