"""Stage 4: one LoRA on many speakers, none of them a target (speaker adaptive training)."""

import logging
from typing import Any

from pqm_plugin.adapters.files import adapter_answering
from pqm_plugin.corpus.utterance import digest
from pqm_plugin.engine.learn import TrainingData, TrainingSetup, attach_adapter, learn, sweep_scratch
from pqm_plugin.settings import as_dict
from pqm_plugin.stages.common.material import Material, training_examples
from pqm_plugin.stages.common.opening import open_base, weights_file, weights_hash
from pqm_plugin.stages.common.style import styled
from pqm_plugin.stages.common.systems import adapted_bases, check_toolkit
from pqm_plugin.stages.recipe import Recipe


def run(recipe: Recipe) -> None:
    """Train the speaker-independent adapter of every base kind that the systems need."""
    if not Material(recipe).has_sat():
        logging.warning("no SAT speakers in %s: there is nothing to pre-train on", recipe.partition_file)
        return
    check_toolkit(recipe)
    for base_kind in adapted_bases(recipe):
        _pretrain(recipe, base_kind)


def _pretrain(recipe: Recipe, base_kind: str) -> None:
    material = Material(recipe)
    splits = {split: material.utterances(split) for split in ("sat_train", "sat_dev")}
    request: dict[str, Any] = {
        "base_sha256": weights_hash(weights_file(recipe, base_kind)),
        "lora": as_dict(recipe.config.lora),
        "train": as_dict(recipe.config.pretrain),
        "seed": recipe.config.seed,
        **material.training_request(),
        # Sums of float32 depend on how many threads share them.
        "threads": recipe.n_threads,
        **{split: digest(utterances) for split, utterances in splits.items()},
    }
    folder = recipe.adapter_dir(base_kind) / "sat"
    if adapter_answering(folder, request):
        logging.info("%s is there already", folder)
        # A kill may have come between the adapter and its checkpoint's end.
        sweep_scratch(folder.parent, {"sat"})
        return
    opened = open_base(recipe, base_kind, n_threads=recipe.n_threads)
    config, recognizer, options = recipe.config, opened.recognizer, recipe.config.pretrain
    ready = {
        split: training_examples(recognizer, styled(material, utterances), material.learned_fit, options, config.seed)
        for split, utterances in splits.items()
    }
    model = attach_adapter(recognizer, opened.weights_sha256, None, config.lora, config.seed)
    setup = TrainingSetup(recognizer, model, options, config.seed, config.lora.max_fraction)
    remedy = "lower pretrain.learning_rate"
    learn(setup, TrainingData(ready["sat_train"], ready["sat_dev"], request, folder, "sat", remedy))
    sweep_scratch(folder.parent, {"sat"})
