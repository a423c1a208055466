"""The systems that are decoded and compared, from their keys: base, `+`, adapter."""

import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pqm_plugin.errors import PqmError
from pqm_plugin.stages.common.opening import BASE_KINDS, ROUNDED
from pqm_plugin.stages.recipe import Recipe

STOCK = "stock"
SPEAKERS_OWN = ("speaker", "other")
"""Adapters that stage 5 makes."""
ADAPTERS = ("sat", *SPEAKERS_OWN)
CHECKED = ("full", "nf4", "nf4+sat")
"""Systems for the control set, whose speakers have no adapters of their own."""


@dataclass(frozen=True)
class System:
    """`base_kind` is `stock` or one of `BASE_KINDS`; `adapter` is empty, `sat`, `speaker` or `other`."""

    key: str
    base_kind: str
    adapter: str


def parse_system(key: str, baselines: Iterable[str]) -> System:
    """Read a key of the systems table.

    Raises:
        PqmError: if base or adapter are not known.
    """
    if key in baselines:
        return System(key, STOCK, "")
    base_kind, plus, adapter = key.partition("+")
    if base_kind not in BASE_KINDS or (plus and adapter not in ADAPTERS):
        raise PqmError(
            f"system {key!r} is not known: use {', '.join((*baselines, *BASE_KINDS))}, "
            f"the last {len(BASE_KINDS)} also with +{', +'.join(ADAPTERS)}"
        )
    return System(key, base_kind, adapter)


def systems(recipe: Recipe, baselines: Mapping[str, str], adapters: Sequence[str] = ADAPTERS) -> list[System]:
    """The systems of a recipe, by default those of the design's table that `adapters` allow.

    A calibrated recipe has one more, which shows what calibration is worth.
    """
    stock, *others = baselines
    rounded = [kind for kind in packed_kinds(recipe) if kind != "nf4"]
    keys = recipe.systems or (stock, "full", *others, *rounded, "nf4", *(f"nf4+{adapter}" for adapter in adapters))
    return [parse_system(key, baselines) for key in keys]


def packed_kinds(recipe: Recipe) -> list[str]:
    """The packed base kinds that the recipe's systems need, `nf4` always among them."""
    calibrated = recipe.config.quantize.calibrate > 0
    rounded = any(key.partition("+")[0] == ROUNDED for key in recipe.systems) if recipe.systems else calibrated
    return ["nf4", *([ROUNDED] if rounded else [])]


def possible_adapters(has_sat: bool, n_targets: int) -> list[str]:
    """The adapters that there can be: without SAT none of that name, and a single target has no other."""
    lacking = {"sat": not has_sat, "other": n_targets < 2}
    return [adapter for adapter in ADAPTERS if not lacking.get(adapter)]


def adapted_bases(recipe: Recipe, adapters: Sequence[str] = ADAPTERS) -> list[str]:
    """Base kinds for which the recipe's systems need one of `adapters`: any for stage 4, a speaker's for stage 5."""
    keys = recipe.systems or tuple(f"nf4+{adapter}" for adapter in ADAPTERS)
    return [kind for kind in BASE_KINDS if any(f"{kind}+{adapter}" in keys for adapter in adapters)]


def adapter_of(recipe: Recipe, system: System, speaker: str, speakers: Sequence[str]) -> Path | None:
    """The folder of the adapter with which `system` decodes `speaker`; the other speaker is the next in the list."""
    if not system.adapter:
        return None
    root = recipe.adapter_dir(system.base_kind)
    if system.adapter == "sat":
        return root / "sat"
    if system.adapter == "speaker":
        return root / "speakers" / speaker
    if len(speakers) < 2:
        raise PqmError(f"{system.key}: another speaker's adapter needs at least two target speakers")
    place = bisect.bisect_left(speakers, speaker)
    if speakers[place : place + 1] != [speaker]:
        # They need not be sorted, but for thousands it is as well that they are.
        place = speakers.index(speaker)
    return root / "speakers" / speakers[(place + 1) % len(speakers)]
