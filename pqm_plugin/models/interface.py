"""The interface of a recogniser and of its model family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pqm_plugin.errors import PqmError
from pqm_plugin.models.language import AUTO, language_code
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.words import WordList

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn


@dataclass(frozen=True)
class Loss:
    """What a batch cost: `total` is the sum over utterances of each one's own loss, in nats, with gradient."""

    total: Tensor
    n_utterances: int
    n_correct: int
    n_tokens: int


def groups(sizes: Sequence[int]) -> list[slice]:
    """The rows of each group of a batch, where groups of `sizes` follow one another."""
    ends = list(accumulate(sizes))
    return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]


@dataclass(frozen=True)
class Hypothesis:
    """The best words of one utterance; `score` is the search's log probability in nats of `n_tokens` and their end.

    `is_repaired`: the search repeated itself or made words up, and this is what was left of them.
    """

    text: str
    score: float
    n_tokens: int
    is_repaired: bool = False


@dataclass(frozen=True)
class Facts:
    """What a model's configuration says of it: the rate in Hz of the audio it takes, and what it can write.

    `symbols` holds every character that its tokens can spell; None where they can spell any text. `writes_case`: its
    vocabulary has words with a capital letter, so that it writes sentences as people do, with punctuation.
    """

    sample_rate: int
    symbols: frozenset[str] | None
    writes_case: bool = False


class Recognizer(ABC):
    """A recogniser in memory, float or packed, with or without an adapter inside `network`.

    What is not abstract here most families leave as it is.
    """

    network: nn.Module
    facts: Facts

    @property
    def max_batch(self) -> int:
        """Most pieces of audio that `recognize` searches at once; to be asked when the weights are loaded."""
        return 1

    @property
    def built_in(self) -> frozenset[str]:
        """Parameters that the architecture itself determines: they need not be stored."""
        return frozenset()

    @abstractmethod
    def features(self, audio: np.ndarray) -> Tensor:
        """Input of the first trained layer, float32 (T, D), from audio float32 (n_samples,) in [-1, 1]."""

    @abstractmethod
    def token_ids(self, text: str) -> Tensor:
        """Tokens of a transcript, int64 (U,), without start and end."""

    @abstractmethod
    def reason_untrainable(self, features: Tensor, tokens: Tensor) -> str:
        """Why an utterance cannot be trained on, such as "it has 3 frames, too few"; empty if it can."""

    def loss(self, features: Sequence[Tensor], tokens: Sequence[Tensor]) -> Loss:
        """Teacher-forced training loss and token accuracy of a batch."""
        [found] = self.losses(features, tokens, [len(tokens)])
        return found

    @abstractmethod
    def losses(self, features: Sequence[Tensor], tokens: Sequence[Tensor], sizes: Sequence[int]) -> list[Loss]:
        """The same of groups of rows that are computed together: the first `sizes[0]` rows, the next, and so on.

        Trained layers see all rows at once, in their order, but for layers behind encoder and decoder.
        """

    def optimized_attention(self) -> AbstractContextManager[None]:
        """Within it, layers that this project computes in fewer passes than their library are computed so."""
        return nullcontext()

    @abstractmethod
    def greedy(self, features: Sequence[Tensor]) -> list[str]:
        """Words by the fastest decoding that the family has, for measuring many variants."""

    def pieces(self, audio: np.ndarray) -> list[np.ndarray]:
        """Cut audio that is too long to be searched at once; nothing of it is left out."""
        return [audio]

    @abstractmethod
    def recognize(self, pieces: Sequence[np.ndarray], words: Sequence[WordList | None] = ()) -> list[Hypothesis]:
        """Search for the words of each piece; an adapter that differs by row sees one row a piece.

        Args:
            words: of one's own that each piece is expected to have, None for none; or nothing at all.

        Raises:
            PqmError: if the search cannot be told words, or the model cannot write one of them.
        """

    def speak(self, language: str) -> None:  # noqa: B027
        """Search and train in the language of this code from now on; nothing where the family has no choice.

        Raises:
            PqmError: if the model does not know it.
        """

    def language_of(self, pieces: Sequence[np.ndarray]) -> str:
        """Code of the language that all pieces together are likeliest in; empty where the model cannot tell."""
        return ""

    @abstractmethod
    def layer_kinds(self) -> Mapping[str, str]:
        """Kind (`encoder_attention`, `embedding`, …) of every layer whose weight can be quantised, by name."""

    @abstractmethod
    def adapter_targets(self, preset: str) -> list[str]:
        """Full names of the layers of a LoRA preset: `qv`, `attention` or `all_linear`."""

    def attach_toolkit_lora(self, targets: Sequence[str], rank: int, alpha: float, dropout: float) -> int:
        """Give the named layers the LoRA of the family's own toolkit, in place, and train nothing else.

        Returns:
            How many parameters the toolkit would train, which may be more.

        Raises:
            PqmError: if the toolkit has none, is not installed, or takes no such layers or settings.
        """
        raise PqmError("this model's toolkit brings no LoRA of its own: leave such a system out of --systems")

    def layer_stack(self) -> list[str]:
        """Full names of the modules that features go through one after another, from the lowest up to the decoder.

        Those of them that stay fixed are computed once for many steps of training; none where the family cannot say.
        """
        return []


class Family(ABC):
    """One model family: what the stages and commands ask of it without a model in memory.

    What is not abstract here are the defaults of what most families lack.
    """

    NAME: str
    KEY: str
    """What `--family` calls it."""

    TOOLKIT: str
    """What trains such models, as messages call it."""

    LIBRARY: tuple[str, ...]
    """What computes the models, as `module:name`; workers are forked from a process that has imported it."""

    BASELINES: Mapping[str, str] = {}
    """Key in results.json of each stock system, and what it is."""

    TOOLKIT_LORA: str = ""
    """Adapter of the systems table that `attach_toolkit_lora` makes; empty if the family's toolkit has no LoRA."""

    STOCK_PROGRESS: bytes = b""
    """What the log of `decode_stock` says once an utterance."""

    BATCHES: bool = True
    """Whether its recognisers search several pieces of audio at once."""

    EXPORTS: Mapping[str, str] = {}
    """Tools that such a model can be handed to, and whether they get the whole `model` or the `adapter`."""

    TAKES_WORDS: bool = False
    """Whether its recognisers can be given words of one's own, see `biasing.py`."""

    CHOOSES_LANGUAGE: bool = False
    """Whether its recognisers can be told the language of speech; others write that which they were trained on."""

    @abstractmethod
    def claims(self, folder: Path) -> bool:
        """Whether `folder` holds a model of this family, float or packed."""

    @abstractmethod
    def fetch(self, source: str, out: Path) -> bool:
        """Bring the model that `source` names into the new folder `out`; False if it is not this family's."""

    @abstractmethod
    def facts(self, folder: Path) -> Facts:
        """What the configuration in a base's or packed model's folder says, without loading the model."""

    @abstractmethod
    def load_float(self, folder: Path, search: SearchOptions, device: str) -> Recognizer:
        """The base in full precision, every key checked.

        Raises:
            PqmError: if weights and configuration do not fit each other.
        """

    @abstractmethod
    def load_skeleton(self, folder: Path, search: SearchOptions, device: str) -> Recognizer:
        """The same architecture with weights still to be loaded."""

    @abstractmethod
    def side_files(self, folder: Path) -> list[Path]:
        """What a packed model needs beside its weights: configuration, tokens."""

    @abstractmethod
    def weights_file(self, folder: Path) -> Path:
        """The float32 weights of a base folder."""

    def source_files(self, folder: Path) -> list[Path]:
        """The files of the weights in a folder that can be fetched, in any form; none if the folder is another kind."""
        return [self.weights_file(folder)] if self.claims(folder) else []

    def files_elsewhere(self, folder: Path) -> list[str]:
        """Files outside of `folder` that its configuration names; a model that is handed on has none."""
        return []

    def spoken_language(self, folder: Path, language: str) -> str:
        """The code of a language that the user names for the model in `folder`, or `auto`.

        By default any language but `auto`: it says what the texts are, and changes no word.

        Raises:
            PqmError: if it is not a language, or not one of the model's.
        """
        code = language_code(language)
        if code == AUTO:
            raise PqmError(
                f"language {AUTO}: a model of {self.TOOLKIT} cannot tell the language: name it, or leave it out"
            )
        return code

    def languages(self, folder: Path) -> tuple[str, ...]:
        """Codes of the languages that the model in `folder` can be told, sorted; none where it cannot choose.

        Raises:
            PqmError: if its configuration cannot be read.
        """
        return ()

    def export(self, tool: str, recognizer: Recognizer, source: Path, out: Path, place: Path) -> None:
        """Write a float recogniser into the folder `out` as `tool` of `EXPORTS` reads it.

        Args:
            source: a folder with the side files of the model.
            place: where `out` will be moved when it is whole.
        """
        raise PqmError(f"--to {tool}: a model of {self.NAME} is not exported so")

    def adapter_obstacle(self, tool: str, config: Mapping[str, Any], layers: Mapping[str, Any]) -> str:
        """Why a tool of `EXPORTS` would not take an adapter of this configuration on these layers; empty if it does."""
        return ""

    def adapter_note(self, tool: str, config: Mapping[str, Any]) -> str:
        """What the users of a tool need to know to load such an adapter."""
        return ""

    def adapter_as_peft(self, source: Path, base: Path | None, out: Path) -> bool:
        """Write an adapter that the family's toolkit made as a PEFT folder into `out`; False if `source` is none.

        Args:
            base: the float model that it was trained on; None where it is not given.

        Raises:
            PqmError: if it is more than a LoRA, or is to be compared with a base that is not given.
        """
        return False

    def training_sample_rate(self, config: Path) -> int:
        """The rate in Hz of the audio that a model of this training configuration takes.

        Raises:
            PqmError: if models of this family are not trained here.
        """
        raise PqmError(f"--base train: {self.NAME} models are not trained here; give a model as --base")

    def train(
        self,
        train_data: Path,
        valid_data: Path,
        config: Path,
        out: Path,
        *,
        token_type: str,
        n_tokens: int,
        speed_factors: Sequence[float],
        ngpu: int,
        n_threads: int,
        seed: int,
    ) -> None:
        """Train a model from Kaldi folders of plain files into the folder `out`; resumable, quick when done."""
        self.training_sample_rate(config)

    def search_options(self, search: SearchOptions) -> dict[str, Any]:
        """Those of the options that decide this family's words."""
        return {}

    def training_options(self, search: SearchOptions) -> dict[str, Any]:
        """Those of the options that the training loss depends on, too."""
        return {}

    def describe_search(self, search: SearchOptions) -> str:
        """The search in a few words, such as "joint decoding, ctc_weight 0.5, beam 10"."""
        return "greedy"

    def decode_stock(
        self, key: str, folder: Path, wav_scp: Path, out: Path, search: SearchOptions, log: Path
    ) -> StockDecode:
        """Decode with the family's own tools, untouched by this package."""
        raise PqmError(f"system {key}: {self.NAME} models have no stock decoding; leave it out of --systems")


@dataclass(frozen=True)
class StockDecode:
    """What a stock tool gave: words and seconds of decoding by utterance, its peak memory, its model's size on disk."""

    hypotheses: Mapping[str, str]
    decode_s: Mapping[str, float]
    peak_rss_bytes: int
    model_bytes: int
    command: str
