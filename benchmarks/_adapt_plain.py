"""The loop that a user of peft writes: audio to features in every epoch, nothing kept, one speaker after another."""

import random
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from pqm_plugin.adapters.batches import batches_by_length
from pqm_plugin.adapters.files import AdapterInfo, load_adapter, save_adapter
from pqm_plugin.adapters.lora import parameter_counts
from pqm_plugin.adapters.train import set_training_mode
from pqm_plugin.corpus.audio import load_audio
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.models.interface import Loss
from pqm_plugin.stages.adapt import allowed_speech
from pqm_plugin.stages.common.material import Material, examples
from pqm_plugin.stages.common.opening import open_base
from pqm_plugin.stages.recipe import Recipe


def plain(
    recipe: Recipe, speakers: Sequence[str], n_threads: int, out: Path
) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds and best dev accuracy of each speaker; the base is opened once, adapters are written to `out`."""
    loop = PlainLoop(recipe, n_threads)
    took, accuracy = {}, {}
    for speaker in speakers:
        start = time.perf_counter()
        accuracy[speaker] = loop.adapt(speaker, out / speaker)
        took[speaker] = time.perf_counter() - start
    return took, accuracy


class PlainLoop:
    """A recipe's packed base with its start adapter, and plain training with as many threads as there are cores."""

    def __init__(self, recipe: Recipe, n_threads: int) -> None:
        """Open the base; the weights are float32 in memory, which is the fastest that plain peft can have."""
        self.recipe = recipe
        self.material = Material(recipe)
        self.options = recipe.config.adapt
        opened = open_base(recipe, "nf4", n_threads=n_threads)
        self.recognizer, self.base_sha256 = opened.recognizer, opened.weights_sha256
        sat = recipe.packed_dir / "sat"
        self.model = load_adapter(self.recognizer.network, sat, self.base_sha256, trainable=True)
        self.start = self._weights()

    def adapt(self, speaker: str, out: Path) -> float:
        """Train one speaker's adapter for all epochs, write that of the least loss on dev, and give its accuracy."""
        self.model.load_state_dict(self.start, strict=False)
        groups = {split: self._groups(speaker, split) for split in ("train", "dev")}
        optimizer = torch.optim.Adam(
            (value for value in self.model.parameters() if value.requires_grad), lr=self.options.learning_rate
        )
        best, kept, best_epoch = self._judge(groups["dev"]), self.start, 0
        for epoch in range(1, self.options.epochs + 1):
            self._learn(groups["train"], optimizer, epoch)
            found = self._judge(groups["dev"])
            if found < best:
                best, kept, best_epoch = found, self._weights(), epoch
        self.model.load_state_dict(kept, strict=False)
        save_adapter(out, self.model, AdapterInfo(self.base_sha256, speaker, *parameter_counts(self.model), best_epoch))
        return best[1]

    def _learn(self, groups: Sequence[Sequence[Utterance]], optimizer: torch.optim.Optimizer, epoch: int) -> None:
        """One epoch, at the rate that the recipe has for each of its batches."""
        seed = self.recipe.config.seed * 1000 + epoch
        torch.manual_seed(seed)
        set_training_mode(self.model, network_dropout=self.options.network_dropout)
        for done, group in enumerate(random.Random(seed).sample(groups, len(groups))):
            optimizer.param_groups[0]["lr"] = self.options.rate(epoch, done / len(groups))
            optimizer.zero_grad()
            loss = self._loss(group)
            (loss.total / loss.n_utterances).backward()
            nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], self.options.clip_norm)
            optimizer.step()

    def _weights(self) -> dict[str, Tensor]:
        """A copy of the adapter as it is now."""
        return {name: value.detach().clone() for name, value in self.model.named_parameters() if "lora_" in name}

    def _groups(self, speaker: str, split: str) -> list[list[Utterance]]:
        """Batches of the very composition that stage 5 has."""
        utterances = allowed_speech(self.material, split, speaker)
        ready = examples(self.recognizer, utterances, self.material.fit)
        if len(ready) != len(utterances):
            raise ValueError(f"{speaker}: stage 5 leaves out an utterance, so that batches would differ")
        return [[utterances[i] for i in batch] for batch in batches_by_length(ready, self.options.batch_frames)]

    def _loss(self, group: Sequence[Utterance]) -> Loss:
        rate = self.recognizer.facts.sample_rate
        features: list[Tensor] = [self.recognizer.features(load_audio(found, rate)) for found in group]
        tokens = [self.recognizer.token_ids(self.material.fit.apply(found.text)) for found in group]
        return self.recognizer.loss(features, tokens)

    def _judge(self, groups: Sequence[Sequence[Utterance]]) -> tuple[float, float]:
        """Loss and accuracy."""
        self.model.eval()
        with torch.no_grad():
            found = [self._loss(group) for group in groups]
        tokens = sum(loss.n_tokens for loss in found)
        return sum(float(loss.total) for loss in found), sum(loss.n_correct for loss in found) / tokens
