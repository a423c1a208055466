"""What is to be decoded: one system on one set."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pqm_plugin.adapters.files import WEIGHTS
from pqm_plugin.errors import PqmError
from pqm_plugin.files import safe_name
from pqm_plugin.models.families import family_of
from pqm_plugin.stages.common.material import Material
from pqm_plugin.stages.common.modes import arithmetic
from pqm_plugin.stages.common.opening import weights_file, weights_hash
from pqm_plugin.stages.common.systems import STOCK, System, adapter_of
from pqm_plugin.stages.decoding.parts import Part
from pqm_plugin.stages.recipe import Recipe


@dataclass(frozen=True)
class DecodeTask:
    """The utterances of `split` of all `speakers`, by `system`; the words go to the folder of `set_name`."""

    recipe: Recipe
    system: System
    set_name: str
    split: str
    speakers: Sequence[str]

    @property
    def folder(self) -> Path:
        """Where everything of this decode is."""
        return self.recipe.decode_dir(self.system.key, self.set_name)

    def adapter(self, speaker: str) -> Path | None:
        """The adapter with which `speaker` is decoded, if the system has any."""
        return adapter_of(self.recipe, self.system, speaker, self.speakers)

    def adapter_weights(self, speaker: str) -> Path | None:
        """The weights file of `adapter`."""
        folder, voices = self.adapter(speaker), self.system.voices
        return None if folder is None else folder / (voices.weights if voices else WEIGHTS)

    @property
    def joins_speakers(self) -> bool:
        """Whether utterances of several speakers can be searched together, each with its own adapter."""
        return self.system.voices is None or not self.system.voices.control

    def part(self, material: Material, speaker: str) -> Part:
        """What there is of a speaker's words; change anything that they depend on, and they are found anew."""
        utterances = material.utterances(self.split, speaker)
        kind = "full" if self.system.base_kind == STOCK else self.system.base_kind
        request = {
            "system": self.system.key,
            "weights_sha256": weights_hash(weights_file(self.recipe, kind)),
            "adapter_sha256": self._adapter_hash(speaker),
            "search": family_of(self.recipe.base_dir).search_options(self.recipe.config.decode),
            "utterances": material.digest(self.split, speaker),
            "device": self.recipe.device,
            **arithmetic(self.recipe, self.system.base_kind),
        }
        path = self.folder / "parts" / f"{safe_name(speaker)}.jsonl"
        return Part.read(path, request, [utterance.utterance for utterance in utterances])

    def _adapter_hash(self, speaker: str) -> str:
        path = self.adapter_weights(speaker)
        if path is None:
            return ""
        if not path.is_file():
            stage = 4 if self.system.adapter == "sat" else 5
            raise PqmError(f"{path} is missing: run stage {stage} before decoding {self.system.key}")
        return weights_hash(path)
