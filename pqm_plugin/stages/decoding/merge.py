"""Put the speakers' parts of a decode together, in the forms that ESPnet's and Kaldi's tools read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pqm_plugin.adapters.files import AdapterInfo, read_info
from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json, write_json, write_text
from pqm_plugin.metrics.sclite import write_trn
from pqm_plugin.models.families import family_of
from pqm_plugin.stages.common.material import Material
from pqm_plugin.stages.common.opening import PACKED_KINDS, weights_file, weights_hash
from pqm_plugin.stages.common.systems import COPY, STOCK
from pqm_plugin.stages.decoding.parts import Line
from pqm_plugin.stages.decoding.task import DecodeTask


def merge(task: DecodeTask, material: Material) -> None:
    """Write `text`, `utt2spk`, `ref.trn`, `hyp.trn` and `run.json` of a decode; run.json last, it says all is there."""
    folder = task.folder
    lines: dict[str, Line] = {}
    speaker_of: dict[str, str] = {}
    for speaker in task.speakers:
        part = task.part(material, speaker)
        if part.missing:
            raise PqmError(f"{part.path}: {len(part.missing)} utterances are not decoded; run stage 6 again")
        lines |= {line.utterance: line for line in part.lines}
        speaker_of |= {line.utterance: speaker for line in part.lines}
    names = sorted(lines)
    references = _references(task, material)
    write_text(folder / "text", "".join(f"{name} {lines[name].text}".rstrip() + "\n" for name in names))
    write_text(folder / "utt2spk", "".join(f"{name} {speaker_of[name]}\n" for name in names))
    write_trn(folder / "ref.trn", {name: references[name] for name in names}, speaker_of)
    write_trn(folder / "hyp.trn", {name: lines[name].text for name in names}, speaker_of)
    facts = _facts(task, material, list(lines.values()))
    write_json(folder / "run.json", {"system": task.system.key, "set": task.set_name, **facts})


def _references(task: DecodeTask, material: Material) -> Mapping[str, str]:
    return {found.utterance: material.fit.apply(found.text) for found in material.utterances(task.split)}


def _facts(task: DecodeTask, material: Material, lines: Sequence[Line]) -> dict[str, Any]:
    family, search = family_of(task.recipe.base_dir), task.recipe.config.decode
    audio_s, decode_s = sum(line.audio_s for line in lines), sum(line.decode_s for line in lines)
    folders = [found for speaker in task.speakers for found in [task.adapter(speaker)] if found is not None]
    infos = [read_info(found) for found in folders]
    files = _adapter_files(task)
    return {
        "utterances": len(lines),
        "audio_s": audio_s,
        "decode_s": decode_s,
        "rtf": decode_s / audio_s,
        "peak_rss_bytes": max(line.peak_rss_bytes for line in lines),
        "model_bytes": _model_bytes(task),
        "adapter_bytes": max((path.stat().st_size for path in files), default=0),
        "adapter_fraction": max((info.parameters / info.base_parameters for info in infos), default=0.0),
        **_trainable(infos),
        "family": family.NAME,
        "search": family.search_options(search),
        "decoding": family.describe_search(search),
        "text_case": material.fit.case,
        "read_from": {path.as_posix(): weights_hash(path) for path in _weights(task)},
        "threads": 1,
        **(_modes(task, lines) if task.system.base_kind in PACKED_KINDS else {}),
        "command": _command(task),
    }


def _modes(task: DecodeTask, lines: Sequence[Line]) -> dict[str, Any]:
    """What was asked for, and, where lines say it, what they were computed with; more than one if it went on later."""
    used = sorted({line.mode for line in lines} - {""})
    return {"mode": task.recipe.mode, **({"modes_used": used} if used else {})}


def _trainable(infos: Sequence[AdapterInfo]) -> dict[str, Any]:
    """For a toolkit's own LoRA how many parameters it would have let learn, how many did, and those of the base."""
    for info in infos:
        if info.toolkit_trains:
            counts = {"by_default": info.toolkit_trains, "frozen": info.parameters, "base": info.base_parameters}
            return {"trainable": counts}
    return {}


def _weights(task: DecodeTask) -> list[Path]:
    """The files whose bytes decide the words: change one, and the words are no longer those of what is there."""
    base = weights_file(task.recipe, "full" if task.system.base_kind == STOCK else task.system.base_kind)
    return [base, *_adapter_files(task)]


def _adapter_files(task: DecodeTask) -> list[Path]:
    return sorted({path for speaker in task.speakers for path in [task.adapter_weights(speaker)] if path is not None})


def _model_bytes(task: DecodeTask) -> int:
    """What all speakers share: nothing, where each has a whole model."""
    if task.system.adapter == COPY:
        return 0
    if task.system.base_kind != STOCK:
        return weights_file(task.recipe, task.system.base_kind).stat().st_size
    return int(read_json(min(task.folder.glob("stock/*/model_bytes"))))


def _command(task: DecodeTask) -> str:
    for path in sorted(task.folder.glob("stock/*/command")):
        return path.read_text(encoding="utf-8").strip()
    return task.recipe.command
