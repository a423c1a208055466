"""Decode some speakers with the family's own tools."""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from pqm_plugin.corpus.audio import duration_s
from pqm_plugin.corpus.dump import plain_file
from pqm_plugin.files import write_text
from pqm_plugin.models.families import family_of
from pqm_plugin.stages.common.material import Material
from pqm_plugin.stages.decoding.parts import Line
from pqm_plugin.stages.decoding.task import DecodeTask


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
