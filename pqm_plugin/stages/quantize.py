"""Stage 3: the base in 4 bits."""

import dataclasses
import logging
import shutil
from pathlib import Path
from typing import Any

from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json, sha256, whole_folder, write_json
from pqm_plugin.models.families import family_of
from pqm_plugin.models.interface import Recognizer
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.quantize.checkpoint import FORMAT_VERSION, load_packed, save_packed
from pqm_plugin.quantize.layers import measure, quantize_layers, weights_of
from pqm_plugin.quantize.modes import ABOUT, META, PACKED
from pqm_plugin.stages.common.calibration import Calibration, weight_format
from pqm_plugin.stages.common.done import is_done
from pqm_plugin.stages.common.opening import ROUNDED, weights_file, weights_hash
from pqm_plugin.stages.common.systems import packed_kinds
from pqm_plugin.stages.config import QuantizeConfig, as_dict
from pqm_plugin.stages.recipe import Recipe


def run(recipe: Recipe) -> None:
    """Pack the base's weights, measure what that cost in bytes and error, and check that the file loads."""
    for kind in packed_kinds(recipe):
        config = recipe.config.quantize
        if kind == ROUNDED:
            config = dataclasses.replace(config, calibrate=0)
        _pack(recipe, recipe.adapter_dir(kind), config)
        _say_how_to_search(recipe, recipe.adapter_dir(kind) / ABOUT)


def _pack(recipe: Recipe, target: Path, config: QuantizeConfig) -> None:
    source = weights_file(recipe, "full")
    calibration = Calibration(recipe, config)
    request = {
        "base_sha256": weights_hash(source),
        "quantize": as_dict(config),
        "format_version": FORMAT_VERSION,
        **calibration.request(),
    }
    if is_done(target / META, request, f"packed model {target}") and (target / PACKED).is_file():
        logging.info("%s is there already", target / PACKED)
        return
    family = family_of(recipe.base_dir)
    recognizer = family.load_float(recipe.base_dir, recipe.config.decode, "cpu")
    kinds = quantized_kinds(recognizer, config)
    before = weights_of(recognizer.network, kinds)
    if calibration.utterances:
        calibration.run(recognizer, list(kinds))
    else:
        quantize_layers(recognizer.network, list(kinds), weight_format(config))
    with whole_folder(target.with_name(f"{target.name}.new")) as scratch:
        for path in family.side_files(recipe.base_dir):
            shutil.copyfile(path, scratch / path.name)
        save_packed(scratch / PACKED, recognizer.network, config.rest_dtype, recognizer.built_in)
        # Loading it back now means that no later stage meets a file that cannot be read.
        load_packed(scratch / PACKED, family.load_skeleton(scratch, SearchOptions(), "cpu").network)
        meta = {"request": request, "family": family.NAME, **measure(recognizer.network, kinds, before)}
        meta["size_bytes"] = (scratch / PACKED).stat().st_size
        meta["sha256"] = sha256(scratch / PACKED)
        meta["base_size_bytes"] = source.stat().st_size
        meta["ratio"] = meta["base_size_bytes"] / meta["size_bytes"]
        write_json(scratch / META, meta)
    _move_in(target)
    _report(meta)


def _say_how_to_search(recipe: Recipe, about: Path) -> None:
    """Keep the recipe's own search, not a second one, where `pqm` finds it when a person uses the model."""
    search = dataclasses.replace(recipe, inference_config=None).config.decode
    said = read_json(about) if about.exists() else {}
    write_json(about, {**said, "decode": as_dict(search)})


def _move_in(target: Path) -> None:
    """Put the new files into the packed folder, meta.json last: it is what says that the stage is done."""
    fresh = target.with_name(f"{target.name}.new")
    target.mkdir(parents=True, exist_ok=True)
    (target / META).unlink(missing_ok=True)
    for path in sorted(fresh.iterdir(), key=lambda path: path.name == META):
        path.replace(target / path.name)
    fresh.rmdir()


def quantized_kinds(recognizer: Recognizer, config: QuantizeConfig) -> dict[str, str]:
    """Kind of every layer that is quantised, by name.

    Raises:
        PqmError: if `keep` names a kind that the model has not.
    """
    kinds = recognizer.layer_kinds()
    unknown = sorted(set(config.keep) - set(kinds.values()))
    if unknown:
        raise PqmError(
            f"quantize.keep: no layer is of kind {unknown[0]!r}; known: {', '.join(sorted(set(kinds.values())))}"
        )
    return {name: kind for name, kind in kinds.items() if kind not in config.keep}


def _report(meta: dict[str, Any]) -> None:
    for row in meta["kinds"]:
        logging.info(
            "quantised %-22s %3d layers %9d parameters %9d bytes, relative error %.4f",
            *(row[key] for key in ("kind", "layers", "parameters", "size_bytes", "relative_error")),
        )
    kept = meta["request"]["quantize"]["keep"]
    logging.info(
        "not quantised: %d of %d parameters (biases, normalisations%s), kept as %s",
        *(meta["parameters_not_quantized"], meta["parameters"], "".join(f", {kind}" for kind in kept)),
        meta["request"]["quantize"]["rest_dtype"],
    )
    logging.info(
        "%d bytes, %.2f times smaller than the float32 file of %d bytes",
        *(meta["size_bytes"], meta["ratio"], meta["base_size_bytes"]),
    )
