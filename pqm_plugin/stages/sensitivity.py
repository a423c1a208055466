"""Sensitivity study: 4 bits for each kind of layer alone, for all, and for all but some, on dev utterances."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from pqm_plugin.adapters.batches import Example, batches_by_length
from pqm_plugin.corpus.utterance import digest
from pqm_plugin.files import read_json, write_json
from pqm_plugin.metrics.wer import counts_of, total
from pqm_plugin.models.families import family_of
from pqm_plugin.models.interface import Recognizer
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.progress import Bar
from pqm_plugin.quantize.layers import packed_layers, quantize_layers
from pqm_plugin.records import is_done
from pqm_plugin.settings import as_dict
from pqm_plugin.stages.common.material import Material, examples
from pqm_plugin.stages.common.opening import open_base, weights_file, weights_hash
from pqm_plugin.stages.common.provenance import provenance
from pqm_plugin.stages.quantize import weight_format
from pqm_plugin.stages.recipe import Recipe

RECORD = "sensitivity.json"
_BATCH_FRAMES = 2000


def run(recipe: Recipe) -> None:
    """Measure every variant that is not measured yet and write the table; each row is kept as soon as it is there.

    `meta` is of the call that measured the last of them.
    """
    material = Material(recipe)
    utterances = [found for speaker in material.speakers() for found in material.utterances("dev", speaker)]
    record = recipe.packed_dir / RECORD
    request = {
        "weights_sha256": weights_hash(weights_file(recipe, "full")),
        # Every variant is rounded to nearest levels, however stage 3 is to calibrate.
        "quantize": {key: value for key, value in as_dict(recipe.config.quantize).items() if key != "calibrate"},
        "utterances": digest(utterances),
    }
    rows = read_json(record)["rows"] if is_done(record, request, str(record)) else []
    if _is_whole(rows, recipe.config.quantize.keep):
        logging.info("%s is there already", record)
        return
    opened = open_base(recipe, "full", n_threads=recipe.n_threads)
    references = [material.fit.apply(utterance.text) for utterance in utterances]
    ready = examples(opened.recognizer, utterances, material.fit)
    meta = {**provenance(recipe, f"--n_threads {recipe.n_threads}"), "set": recipe.target_set, "split": "dev"}
    kinds = opened.recognizer.layer_kinds()
    for setting, chosen in Bar(_variants(kinds.values(), recipe.config.quantize.keep).items(), desc="sensitivity"):
        if setting not in {row["setting"] for row in rows}:
            recognizer = _variant(recipe, kinds, chosen, opened.recognizer)
            measured = _measure(recognizer, ready, references)
            rows.append(_row(setting, recognizer, measured, rows[0] if rows else measured))
            write_json(record, {"request": request, "base": recipe.base_name, "meta": meta, "rows": rows})
            logging.info("%s", rows[-1])


def _is_whole(rows: Sequence[Mapping[str, Any]], keep: Sequence[str]) -> bool:
    """Whether every variant is measured, told without the model: its kinds stand before the row of all."""
    measured = {row["setting"] for row in rows}
    kinds = [setting.removeprefix("only ") for setting in measured if setting.startswith("only ")]
    return "all" in measured and measured >= _variants(kinds, keep).keys()


def _variants(kinds: Iterable[str], keep: Sequence[str]) -> dict[str, list[str]]:
    """The kinds that are quantised in each row of the table."""
    every = sorted(set(kinds))
    singles = {f"only {kind}": [kind] for kind in every}
    without = {f"all but {kind}": [other for other in every if other != kind] for kind in keep}
    default = {f"all but {', '.join(keep)}": [kind for kind in every if kind not in keep]} if len(keep) > 1 else {}
    return {"full precision": [], **singles, "all": every, **without, **default}


def _variant(recipe: Recipe, kinds: Mapping[str, str], chosen: Sequence[str], full: Recognizer) -> Recognizer:
    recognizer = family_of(recipe.base_dir).load_skeleton(
        recipe.base_dir, SearchOptions(language=recipe.config.decode.language), recipe.device
    )
    recognizer.network.load_state_dict(full.network.state_dict())
    recognizer.network.eval()
    names = [name for name, kind in kinds.items() if kind in chosen]
    if names:
        quantize_layers(recognizer.network, names, weight_format(recipe.config.quantize))
    return recognizer


def _measure(recognizer: Recognizer, ready: Sequence[Example], references: Sequence[str]) -> tuple[float, float]:
    """Loss in nats per utterance, and WER of the fastest decoding."""
    loss, words = 0.0, [""] * len(ready)
    with torch.no_grad():
        for batch in batches_by_length(ready, _BATCH_FRAMES):
            features = [ready[i].features for i in batch]
            loss += float(recognizer.loss(features, [ready[i].tokens for i in batch]).total)
            for i, text in zip(batch, recognizer.greedy(features), strict=True):
                words[i] = text
    return loss / len(ready), total(counts_of(references, words), "dev").rate


def _row(setting: str, recognizer: Recognizer, measured: tuple[float, float], full: Any) -> dict[str, Any]:
    loss, wer = measured
    reference = (full["dev_loss"], full["dev_wer"]) if isinstance(full, Mapping) else full
    layers = packed_layers(recognizer.network).values()
    return {
        "setting": setting,
        "layers": len(layers),
        "parameters": sum(layer.packed.shape.numel() for layer in layers),
        "dev_loss": loss,
        "dev_loss_increase": loss - reference[0],
        "dev_wer": wer,
        "dev_wer_increase": wer - reference[1],
    }
