"""Hand a model and what it learned of a speaker to another tool: merged in float, or as the adapter that it reads."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pqm_plugin.adapters.bank import Factors, read_factors
from pqm_plugin.adapters.files import check_adapter
from pqm_plugin.adapters.merging import merge_factors
from pqm_plugin.adapters.options import CONFIG, WEIGHTS
from pqm_plugin.engine.opening import open_float
from pqm_plugin.errors import PqmError
from pqm_plugin.files import sha256, utf8_name, whole_folder, write_json
from pqm_plugin.models.families import family_of
from pqm_plugin.models.interface import Family, Recognizer
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.personal.adopting import float_base
from pqm_plugin.personal.folder import SAT, SPEAKERS, ModelFolder
from pqm_plugin.personal.opening import open_packed
from pqm_plugin.quantize.layers import unpack_layers

RECORD = "pqm_export.json"
"""What was exported, beside the files of the other tool."""
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Exported:
    """Where the export is, of what weights it is, the adapter in it, and what a user should know."""

    folder: Path
    base: str
    adapter: str
    notes: Sequence[str]


def export(
    model: str | Path, out: str | Path, to: str, speaker: str = "", base: str = "", plain: bool = False
) -> Exported:
    """Write a personal model as the folder of another tool.

    Args:
        to: `huggingface`, `faster-whisper` or `espnet` for a model in float32 with the adapter merged, or `vllm` for
            the adapter alone.
        speaker: whose adapter; by default the speaker-independent one, if there is one.
        base: the float model that the personal model was packed from: its weights are then exported in the place of the
            unpacked 4-bit ones, on which the adapter was learned.
        plain: without any adapter.

    Raises:
        PqmError: if the tool does not take such models or adapters, the speaker or the base is another, or `out` is
            there already.
    """
    folder = ModelFolder.of(model)
    out = utf8_name(Path(out).expanduser())
    if out.exists():
        raise PqmError(f"{out} is there already: choose another folder, or remove it first")
    family = family_of(folder.path)
    if to not in family.EXPORTS:
        takes = ", ".join(family.EXPORTS) or "none"
        raise PqmError(f"--to {to}: a model of {family.NAME} is not exported so: there are {takes}")
    name, adapter = _adapter(folder, speaker, plain)
    factors = read_factors(adapter, folder.intact(), torch.device("cpu")) if adapter else None
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(out) as scratch:
        if family.EXPORTS[to] == "adapter":
            done = _write_adapter(family, to, adapter, factors, scratch, out, name)
        else:
            done = _write_model(family, folder, to, factors, base, scratch, out, name)
        record = {"to": to, "base": done.base, "adapter": name, "base_sha256": _base_sha256(folder)}
        write_json(scratch / RECORD, record | ({"adapter_sha256": sha256(adapter / WEIGHTS)} if adapter else {}))
    return done


def _adapter(folder: ModelFolder, speaker: str, plain: bool) -> tuple[str, Path | None]:
    if speaker and plain:
        raise PqmError(f"speaker {speaker!r} and plain: choose one, plain is without any adapter")
    if speaker:
        return f"{SPEAKERS}/{speaker}", folder.known_speaker(speaker)
    sat = None if plain else folder.sat()
    return (SAT, sat) if sat else ("none", None)


def _base_sha256(folder: ModelFolder) -> str:
    return str(folder.meta().get("request", {}).get("base_sha256", "unknown"))


def _write_model(
    family: Family,
    folder: ModelFolder,
    to: str,
    factors: Factors | None,
    base: str,
    scratch: Path,
    out: Path,
    name: str,
) -> Exported:
    """The float base, or the 4-bit one unpacked, with the adapter added."""
    with tempfile.TemporaryDirectory(prefix="pqm_base") as fetched:
        source = folder.path
        recognizer: Recognizer
        if base:
            source = Path(fetched) / "base"
            float_base(folder, base, source)
            recognizer = open_float(source, SearchOptions(guard="never"))
        else:
            recognizer = open_packed(folder, SearchOptions(guard="never")).recognizer
            unpack_layers(recognizer.network)
        untied = merge_factors(recognizer.network, factors) if factors else []
        family.export(to, recognizer, source, scratch, out)
    notes = [
        f"{each.layer} shared its weight with {', '.join(each.others)} and has its own now: the adapter is of it alone"
        for each in untied
    ]
    which = f"the float weights of {base}" if base else "the 4-bit weights, unpacked to float32"
    return Exported(out, which, name, notes)


def _write_adapter(
    family: Family, to: str, adapter: Path | None, factors: Factors | None, scratch: Path, out: Path, name: str
) -> Exported:
    """The adapter as a folder of plain PEFT, which the tool loads beside its base."""
    if adapter is None or factors is None:
        raise PqmError(f"--to {to}: there is no adapter to export: name one with --speaker")
    config: dict[str, Any] = dict(check_adapter(adapter))
    if obstacle := family.adapter_obstacle(to, config, factors.layers()):
        raise PqmError(f"{adapter}: {obstacle}")
    tensors = {
        f"{_PREFIX}{layer}.lora_{part}.weight": factor.contiguous().clone()
        for layer, pair in factors.layers().items()
        for part, factor in zip("AB", pair, strict=True)
    }
    save_file(tensors, scratch / WEIGHTS, metadata={"format": "pt"})
    alpha = factors.scale * config["r"]
    kept = {key: config[key] for key in ("peft_type", "r", "base_model_name_or_path", "task_type") if config.get(key)}
    targets = sorted({layer.rpartition(".")[2] for layer in factors.layers()})
    written = {"lora_alpha": round(alpha) if abs(alpha - round(alpha)) < 1e-9 else alpha, "target_modules": targets}
    plain = {"bias": "none", "lora_dropout": 0.0, "inference_mode": True, "use_dora": False, "use_rslora": False}
    write_json(scratch / CONFIG, kept | written | plain | {"modules_to_save": None})
    notes = [family.adapter_note(to, config), "it was learned on 4-bit weights: beside a float base words may differ"]
    return Exported(out, "none: the tool loads its own", name, [note for note in notes if note])
