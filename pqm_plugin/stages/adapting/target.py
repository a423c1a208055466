"""A speaker whose adapter is to be made."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pqm_plugin.adapters.files import WEIGHTS
from pqm_plugin.files import safe_name
from pqm_plugin.stages.adapting.groups import speakers_per_batch
from pqm_plugin.stages.adapting.speech import Speech, speech_of
from pqm_plugin.stages.adapting.start import options_of
from pqm_plugin.stages.common.done import digest
from pqm_plugin.stages.common.material import Material, examples, joined_examples
from pqm_plugin.stages.common.opening import weights_file, weights_hash
from pqm_plugin.stages.common.systems import COPY, Voices
from pqm_plugin.stages.common.training import Lesson, Trained, adapter_is_done, training_request
from pqm_plugin.stages.config import as_dict


@dataclass(frozen=True)
class Target:
    """A speaker, the utterances to learn from, all that the adapter depends on, and where it is written."""

    speaker: str
    speech: Speech
    request: dict[str, Any]
    folder: Path

    def is_done(self) -> bool:
        """Whether the adapter is there as it is asked for."""
        return adapter_is_done(self.folder, self.request)

    def lesson(self, trained: Trained, seed: int) -> Lesson:
        """What is learned from, ready for the recogniser; `seed` joins utterances, if any are to be."""
        recognizer, speech = trained.recognizer, self.speech
        train, dev = (examples(recognizer, found, speech.fit) for found in (speech.train, speech.dev))
        train += joined_examples(recognizer, speech.train, speech.fit, trained.options, seed)
        return Lesson(train, dev, self.request, self.folder, self.speaker)


def target_of(material: Material, voices: Voices, speaker: str) -> Target:
    """The speaker as a target of `voices`."""
    speech = speech_of(material, voices, speaker)
    folder = voices.root(material.recipe) / safe_name(speaker)
    return Target(speaker, speech, _request(material, voices, speech), folder)


def _request(material: Material, voices: Voices, speech: Speech) -> dict[str, Any]:
    recipe = material.recipe
    sat = recipe.adapter_dir(voices.base_kind) / "sat" / WEIGHTS
    from_sat = voices.from_sat and material.has_sat() and sat.is_file()
    together = speakers_per_batch(recipe, voices)
    return {
        # The index and checkpoints of adapters that are there already know of no controls, and of one speaker a batch.
        **({"control": voices.control} if voices.control else {}),
        **({"speakers_per_batch": together} if together > 1 else {}),
        "base_sha256": weights_hash(weights_file(recipe, voices.base_kind)),
        "start_sha256": weights_hash(sat) if from_sat else "",
        **({"lora": as_dict(recipe.config.lora)} if voices.control != COPY else {}),
        "train": as_dict(options_of(recipe.config, voices)),
        "seed": recipe.config.seed,
        **training_request(material),
        "threads": 1,
        "train_utterances": digest(speech.train),
        "dev_utterances": digest(speech.dev),
    }
