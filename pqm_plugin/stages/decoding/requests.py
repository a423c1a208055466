"""What a decode depends on: change any of it and the words are found anew."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pqm_plugin.adapters.files import WEIGHTS
from pqm_plugin.errors import PqmError
from pqm_plugin.files import safe_name
from pqm_plugin.stages.common.done import digest
from pqm_plugin.stages.common.material import Material
from pqm_plugin.stages.common.opening import weights_file, weights_hash
from pqm_plugin.stages.common.systems import STOCK, System, adapter_of
from pqm_plugin.stages.decoding.parts import Part
from pqm_plugin.stages.recipe import Recipe


def part_of(
    recipe: Recipe,
    material: Material,
    system: System,
    set_name: str,
    split: str,
    speaker: str,
    speakers: Sequence[str],
) -> Part:
    """What there is of one speaker's words under `system`."""
    utterances = material.utterances(split, speaker)
    kind = "full" if system.base_kind == STOCK else system.base_kind
    request: dict[str, Any] = {
        "system": system.key,
        "weights_sha256": weights_hash(weights_file(recipe, kind)),
        "adapter_sha256": _adapter_hash(recipe, system, speaker, speakers),
        "search": asdict(recipe.config.decode),
        "utterances": digest(utterances),
        "device": recipe.device,
    }
    path = recipe.decode_dir(system.key, set_name) / "parts" / f"{safe_name(speaker)}.jsonl"
    return Part.read(path, request, [utterance.utterance for utterance in utterances])


def _adapter_hash(recipe: Recipe, system: System, speaker: str, speakers: Sequence[str]) -> str:
    folder = adapter_of(recipe, system, speaker, speakers)
    if folder is None:
        return ""
    path = folder / WEIGHTS
    if not path.is_file():
        raise PqmError(
            f"{path} is missing: run stage {4 if system.adapter == 'sat' else 5} before decoding {system.key}"
        )
    return weights_hash(path)
