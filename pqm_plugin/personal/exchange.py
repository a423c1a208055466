"""Models and adapters of other tools and for them: take one in as a speaker, hand a model with its speaker on."""

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pqm_plugin.adapters.bank import Factors, read_factors
from pqm_plugin.adapters.files import AdapterInfo, check_adapter, write_info
from pqm_plugin.adapters.lora import parameter_counts
from pqm_plugin.adapters.options import CONFIG, WEIGHTS
from pqm_plugin.adapters.plain import base_of, merge_factors, rewrite
from pqm_plugin.engine.packing import open_float
from pqm_plugin.errors import PqmError
from pqm_plugin.files import exclusive, sha256, utf8_name, whole_folder, write_json
from pqm_plugin.models.families import family_of, fetch_base
from pqm_plugin.models.interface import Family, Recognizer
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.personal.folder import SAT, SPEAKERS, ModelFolder, is_adapter
from pqm_plugin.personal.opening import open_packed
from pqm_plugin.quantize.layers import unpack_layers

_log = logging.getLogger(__name__)
RECORD = "pqm_export.json"
"""What was exported, beside the files of the other tool."""
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Adopted:
    """Where the adapter is now, how many parameters it has, and whether its base is known to be the model's own."""

    folder: Path
    parameters: int
    base_checked: bool


def adopt(model: str | Path, adapter: Path, speaker: str, base: str = "") -> Adopted:
    """Keep a LoRA as the speaker `speaker` of a personal model.

    Args:
        adapter: a PEFT folder, or what the model's toolkit made: an ESPnet experiment with `use_adapter`, or its file.
        base: the float model that the adapter was trained on: a folder, or a name of the hub. Its weights must be those
            that the personal model was packed from. Without it, the folder that the adapter names is looked at, if it
            is on this machine; else nothing but the layers' names and shapes is checked, and the log says so.

    Raises:
        PqmError: if the adapter is not a LoRA that fits the model, is of another base, or the speaker is there.
    """
    folder = ModelFolder.of(model)
    target = folder.speaker(speaker)
    if is_adapter(target):
        raise PqmError(f"{target} is there already: choose another name, or remove it first")
    with tempfile.TemporaryDirectory() as work:
        return _adopt(folder, target, adapter, speaker, base, Path(work))


def _adopt(folder: ModelFolder, target: Path, adapter: Path, speaker: str, base: str, work: Path) -> Adopted:
    named = base_of(adapter) if (adapter / CONFIG).is_file() else ""
    given = base or (named if named and Path(named).is_dir() else "")
    fetched = work / "base" if given else None
    if fetched:
        float_base(folder, given, fetched)
    made, plain = adapter, work / "peft"
    plain.mkdir()
    if not (adapter / CONFIG).is_file() and family_of(folder.path).adapter_as_peft(adapter, fetched, plain):
        made = plain
    if not fetched:
        _log.warning(
            "%s: whether its base (%s) is the model that %s was packed from is not checked: give --base to check it",
            *(adapter, named or "not named", folder.path),
        )
    opened = open_packed(folder, SearchOptions(), mode="small")
    _, n_base = parameter_counts(opened.recognizer.network)
    with (
        exclusive(folder.path / SPEAKERS / f".{speaker}.lock", "another speaker name"),
        whole_folder(target) as scratch,
    ):
        n_adapter = rewrite(made, opened.recognizer.network, scratch)
        request = {"adopted": sha256(made / WEIGHTS), "base_checked": bool(fetched)}
        write_info(scratch, AdapterInfo(opened.sha256, speaker, n_adapter, n_base, 0, request))
        check_adapter(scratch)
    return Adopted(target, n_adapter, bool(fetched))


def float_base(folder: ModelFolder, base: str, out: Path) -> None:
    """Bring the float model that a personal model was packed from into the new folder `out`.

    Raises:
        PqmError: if `base` is not known, or is another model by the hash of its weights.
    """
    recorded = str(folder.meta().get("request", {}).get("base_sha256", ""))
    family = fetch_base(base, out)
    found = sha256(family.weights_file(out))
    if found != recorded:
        raise PqmError(
            f"{base} is another model than the one that {folder.path} was packed from (sha256 {found[:12]}…, recorded "
            f"is {recorded[:12]}…): quantize {base} and use that one, or give the model that it was"
        )


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
    name, adapter = _chosen(folder, speaker, plain)
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


def _chosen(folder: ModelFolder, speaker: str, plain: bool) -> tuple[str, Path | None]:
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
