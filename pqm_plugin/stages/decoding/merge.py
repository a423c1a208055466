"""Put the speakers' parts of a decode together, in the forms that ESPnet's and Kaldi's tools read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pqm_plugin.adapters.files import WEIGHTS, read_info
from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json, write_json, write_text
from pqm_plugin.metrics.sclite import write_trn
from pqm_plugin.models.families import family_of
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.stages.common.material import Material
from pqm_plugin.stages.common.opening import weights_file
from pqm_plugin.stages.common.systems import STOCK, System, adapter_of
from pqm_plugin.stages.decoding.parts import Line
from pqm_plugin.stages.decoding.requests import part_of
from pqm_plugin.stages.recipe import Recipe


def merge(
    recipe: Recipe, material: Material, system: System, set_name: str, split: str, speakers: Sequence[str]
) -> None:
    """Write `text`, `utt2spk`, `ref.trn`, `hyp.trn` and `run.json` of a decode; run.json last, it says all is there."""
    folder = recipe.decode_dir(system.key, set_name)
    lines: dict[str, Line] = {}
    speaker_of: dict[str, str] = {}
    for speaker in speakers:
        part = part_of(recipe, material, system, set_name, split, speaker, speakers)
        if part.missing:
            raise PqmError(f"{part.path}: {len(part.missing)} utterances are not decoded; run stage 6 again")
        lines |= {line.utterance: line for line in part.lines}
        speaker_of |= {line.utterance: speaker for line in part.lines}
    names = sorted(lines)
    references = _references(recipe, material, split)
    write_text(folder / "text", "".join(f"{name} {lines[name].text}".rstrip() + "\n" for name in names))
    write_text(folder / "utt2spk", "".join(f"{name} {speaker_of[name]}\n" for name in names))
    write_trn(folder / "ref.trn", {name: references[name] for name in names}, speaker_of)
    write_trn(folder / "hyp.trn", {name: lines[name].text for name in names}, speaker_of)
    facts = _facts(recipe, system, folder, list(lines.values()), speakers)
    write_json(folder / "run.json", {"system": system.key, "set": set_name, **facts})


def _references(recipe: Recipe, material: Material, split: str) -> Mapping[str, str]:
    recognizer = family_of(recipe.base_dir).load_skeleton(recipe.base_dir, SearchOptions(), "cpu")
    fit = material.fit(recognizer.symbols)
    return {found.utterance: fit.apply(found.text) for found in material.utterances(split)}


def _facts(
    recipe: Recipe, system: System, folder: Path, lines: Sequence[Line], speakers: Sequence[str]
) -> dict[str, Any]:
    audio_s, decode_s = sum(line.audio_s for line in lines), sum(line.decode_s for line in lines)
    adapters = [adapter_of(recipe, system, speaker, speakers) for speaker in speakers]
    folders = [found for found in adapters if found is not None]
    infos = [read_info(found) for found in folders]
    search = recipe.config.decode
    return {
        "utterances": len(lines),
        "audio_s": audio_s,
        "decode_s": decode_s,
        "rtf": decode_s / audio_s,
        "peak_rss_bytes": max(line.peak_rss_bytes for line in lines),
        "model_bytes": _model_bytes(recipe, system, folder),
        "adapter_bytes": max(((found / WEIGHTS).stat().st_size for found in folders), default=0),
        "adapter_fraction": max((info.parameters / info.base_parameters for info in infos), default=0.0),
        "beam_size": search.beam_size,
        "ctc_weight": search.ctc_weight,
        "threads": 1,
        "command": _command(recipe, folder),
    }


def _model_bytes(recipe: Recipe, system: System, folder: Path) -> int:
    if system.base_kind != STOCK:
        return weights_file(recipe, system.base_kind).stat().st_size
    return int(read_json(next(iter(sorted(folder.glob("stock/*/model_bytes"))))))


def _command(recipe: Recipe, folder: Path) -> str:
    for path in sorted(folder.glob("stock/*/command")):
        return path.read_text(encoding="utf-8").strip()
    return recipe.command
