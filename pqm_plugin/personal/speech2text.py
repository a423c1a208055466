"""A replacement for ESPnet's `Speech2Text`: the same call, with a packed model and a speaker's adapter."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pqm_plugin.models.espnet.model import espnet_nbest
from pqm_plugin.personal.folder import ModelFolder
from pqm_plugin.personal.model import PersonalModel
from pqm_plugin.personal.options import search_options


class Speech2Text:
    """Called with an audio array, it gives ESPnet's n-best tuples: text, tokens, token ids, hypothesis.

    Where a program has `Speech2Text(asr_train_config, asr_model_file, …)` or `Speech2Text.from_pretrained(tag)`, write
    `Speech2Text("exp/asr_nf4", speaker="ada")`; what follows may stay.
    """

    def __init__(
        self,
        model: str | Path,
        speaker: str | None = None,
        *,
        device: str = "cpu",
        beam_size: int | None = None,
        ctc_weight: float | None = None,
        penalty: float | None = None,
        maxlenratio: float | None = None,
        nbest: int = 1,
        plain: bool = False,
    ) -> None:
        """Open the model; the search's options have ESPnet's names, and the maker's values where they are not given.

        Raises:
            PqmError: as `PersonalModel` does, and if the speaker is not enrolled.
        """
        folder = ModelFolder.of(model)
        given = {
            "beam_size": beam_size,
            "ctc_weight": ctc_weight,
            "length_bonus": penalty,
            "max_length_ratio": maxlenratio,
        }
        search = replace(
            search_options(folder.about()),
            **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
        )
        self.model = PersonalModel(model, search, device)
        self.nbest = nbest
        self._adapter = self.model.adapter(speaker, plain=plain)[1]

    def __call__(self, speech: Any) -> list[tuple[Any, ...]]:
        """Search for the words of `speech`, float32 (n_samples,) in [-1, 1] at the model's rate.

        Raises:
            PqmError: if the model is not ESPnet's.
        """
        with self.model.using(self._adapter), torch.no_grad():
            return espnet_nbest(self.model.recognizer, speech, self.nbest)
