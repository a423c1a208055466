"""Hybrid CTC/attention encoder-decoders of ESPnet: Conformer, E-Branchformer or Transformer."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from pqm_plugin.devices import device_of, whole_float32
from pqm_plugin.errors import PqmError
from pqm_plugin.models import (
    espnet_folder,
    espnet_layers,
    espnet_lora,
    espnet_loss,
    espnet_stock,
    espnet_train,
)
from pqm_plugin.models.espnet_attention import fast_attention, relative_attentions
from pqm_plugin.models.espnet_borrowed import build
from pqm_plugin.models.espnet_guard import without_loops
from pqm_plugin.models.espnet_hooks import SearchMisfitError, batched_search, computes_coarsely
from pqm_plugin.models.espnet_search import BatchedSearch, Found
from pqm_plugin.models.interface import Hypothesis, Loss, Recognizer
from pqm_plugin.models.language import AUTO, language_code
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.models.products import fast_products
from pqm_plugin.models.skeleton import WithoutInitialisation

NAME = "ESPnet AED"

# What the deepest of ESPnet's convolutional subsamplings needs for one frame of its own.
_MIN_FRAMES = 15
# Lengths of two clips whose encodings are compared, alone and in a batch.
_TRIAL_S = (0.9, 0.6)
# How far its encodings may be apart, by float32's rounding and by that of products in 16 bits.
_FINE, _COARSE = 1e-3, 0.1


class EspnetAed:
    """An ESPnet ASR model with its tokeniser, and joint CTC/attention beam search over it.

    The search is ours, over a batch, and finds what ESPnet's finds. A model that it does not fit is searched by ESPnet,
    one utterance after the other, and the log says why.
    """

    def __init__(self, folder: Path, search: SearchOptions, device: str) -> None:
        made = build(folder, search, device)
        self._made = made
        self.network: nn.Module = made.asr_model
        self._espnet = made.asr_model
        # Its error rates during evaluation cost more than the loss; the stages measure words themselves.
        self._espnet.error_calculator = None
        espnet_layers.give_each_row_its_positions(self.network)
        self.facts = facts(folder)
        self.built_in: frozenset[str] = frozenset()
        self._folder, self._search = folder, search

    @property
    def _device(self) -> torch.device:
        return device_of(self.network)

    @property
    def speech2text(self) -> Any:
        """ESPnet's own entrance, which computes where the network is by now."""
        self._made.device = str(self._device)
        return self._made

    @cached_property
    def _batched(self) -> BatchedSearch | None:
        """Our search, after a trial of both, or None. Not before it is needed: a skeleton has no weights to try yet."""
        try:
            return batched_search(self.speech2text, self._search.max_length_ratio)
        except SearchMisfitError as reason:
            logging.warning("%s: ESPnet's own search, one utterance after the other: %s", self._folder, reason)
            return None

    @cached_property
    def _attentions(self) -> list[Any]:
        """Of the encoder, those that are computed here in fewer passes, after a trial."""
        return relative_attentions(self._espnet.encoder)

    @cached_property
    def max_batch(self) -> int:
        """How many pieces of audio `recognize` takes at once."""
        # Both trials now: in a batch whose rows have adapters they could not be made.
        batched, _ = self._batched, self._attentions
        if batched is None:
            return 1
        size = self._search.batch_size
        return size if size == 1 or self._pads_unseen() else 1

    def features(self, audio: np.ndarray) -> Tensor:
        """Normalised filter banks, float32 (T, D)."""
        speech = torch.from_numpy(audio).unsqueeze(0).to(self._device)
        lengths = torch.tensor([speech.shape[1]], device=self._device)
        with torch.no_grad():
            features, lengths = self._espnet._extract_feats(speech, lengths)
            if self._espnet.normalize is not None:
                features, lengths = self._espnet.normalize(features, lengths)
        return features[0, : int(lengths[0])]

    def token_ids(self, text: str) -> Tensor:
        """Tokens of a transcript, int64 (U,)."""
        pieces = self._made.tokenizer.text2tokens(text)
        return torch.tensor(self._made.converter.tokens2ids(pieces), dtype=torch.long)

    def obstacle(self, features: Tensor, tokens: Tensor) -> str:
        """Fewer frames than the subsampling needs."""
        return "" if len(features) >= _MIN_FRAMES else f"it has {len(features)} frames, too few to train on"

    def loss(self, features: Sequence[Tensor], tokens: Sequence[Tensor]) -> Loss:
        """ESPnet's own, see `losses`."""
        [found] = self.losses(features, tokens, [len(tokens)])
        return found

    def losses(self, features: Sequence[Tensor], tokens: Sequence[Tensor], sizes: Sequence[int]) -> list[Loss]:
        """ESPnet's mixture of CTC and attention losses, see `espnet_loss.py`."""
        return espnet_loss.losses(self._espnet, *self._encode(features), tokens, sizes)

    def fast_layers(self) -> AbstractContextManager[None]:
        """Self-attention over relative positions, where it is ESPnet's as it is known here and without dropout."""
        return fast_attention(self._attentions)

    def greedy(self, features: Sequence[Tensor]) -> list[str]:
        """Words of the best CTC path."""
        with torch.no_grad():
            return self._ctc_words(*self._encode(features))

    def _ctc_words(self, encoded: Tensor, lengths: Tensor) -> list[str]:
        paths = self._espnet.ctc.argmax(encoded)
        return [self._words(path[:length]) for path, length in zip(paths, lengths.tolist(), strict=True)]

    def pieces(self, audio: np.ndarray) -> list[np.ndarray]:
        """The whole audio, as ESPnet's own decoding takes it."""
        return [audio]

    def recognize(self, pieces: Sequence[np.ndarray]) -> list[Hypothesis]:
        """Joint CTC/attention beam search over all pieces; words are empty where the audio is too short."""
        try:
            if self._batched is None:
                return without_loops([self._search_alone(audio) for audio in pieces], self._search, None)
            # Of the encoder alone: the decoder's products are so many and so small that the detour costs more.
            with torch.no_grad(), fast_products(), self.fast_layers():
                encoded, lengths = self._encode([self.features(audio) for audio in pieces])
            found = [self._hypothesis(each) for each in self._batched(encoded, lengths)]
            return without_loops(found, self._search, partial(self._ctc_words, encoded, lengths))
        except Exception as error:
            # The longest piece is too short for ESPnet's subsampling.
            if type(error).__name__ != "TooShortUttError":
                raise
            return [self._hypothesis(None) for _ in pieces]

    def _search_alone(self, audio: np.ndarray) -> Hypothesis:
        text, _, _, best = self.speech2text(audio)[0]
        return Hypothesis(text=text, score=float(best.score), n_tokens=len(best.yseq) - 2)

    def _hypothesis(self, found: Found | None) -> Hypothesis:
        if found is None:
            return Hypothesis(text="", score=0.0, n_tokens=0)
        return Hypothesis(self._text(found.tokens), found.score, len(found.tokens))

    def _pads_unseen(self) -> bool:
        """Whether a clip is encoded the same beside a longer one: not every encoder masks its convolutions."""
        noise = np.random.default_rng(0)
        long, short = (
            self.features(noise.normal(0, 0.1, round(self.facts.sample_rate * length_s)).astype(np.float32))
            for length_s in _TRIAL_S
        )
        with torch.no_grad():
            together, lengths = self._encode([long, short])
            alone, _ = self._encode([short])
        apart = _COARSE if computes_coarsely(self.network) else _FINE
        if alone.shape[1] == int(lengths[1]) and torch.allclose(together[1, : alone.shape[1]], alone[0], atol=apart):
            return True
        logging.warning("one utterance after the other: this model's encoder hears the padding of a batch")
        return False

    def speak(self, language: str) -> None:
        """Nothing: it has one language, or finds it as it was trained to."""

    def language_of(self, pieces: Sequence[np.ndarray]) -> str:
        """It cannot tell."""
        return ""

    def layer_kinds(self) -> Mapping[str, str]:
        """Kinds by the place of a layer in the network; normalisations and activations are none."""
        return espnet_layers.layer_kinds(self.network)

    def adapter_targets(self, preset: str) -> list[str]:
        """Full names of the linear layers of a preset; positional projections belong to `all_linear` alone."""
        return espnet_layers.adapter_targets(self.network, preset)

    def attach_toolkit_lora(self, targets: Sequence[str], rank: int, alpha: float, dropout: float) -> int:
        """ESPnet's own, over loralib."""
        return espnet_lora.attach(self.network, targets, rank, alpha, dropout)

    def layer_stack(self) -> list[str]:
        """Subsampling and blocks of the encoder; with CTC layers between the blocks, the subsampling alone."""
        if self._espnet.preencoder is not None:
            return []
        encoder = self._espnet.encoder
        n_blocks = 0 if getattr(encoder, "interctc_layer_idx", ()) else len(getattr(encoder, "encoders", ()))
        front = ["encoder.embed"] if getattr(encoder, "embed", None) is not None else []
        return front + [f"encoder.encoders.{place}" for place in range(n_blocks)]

    @whole_float32()
    def _encode(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        padded = pad_sequence(list(features), batch_first=True).to(self._device)
        lengths = torch.tensor([len(row) for row in features], device=self._device)
        if self._espnet.preencoder is not None:
            padded, lengths = self._espnet.preencoder(padded, lengths)
        # Some encoders feed what the CTC layer finds in a middle layer to the next one.
        ctc = {"ctc": self._espnet.ctc} if getattr(self._espnet.encoder, "interctc_use_conditioning", False) else {}
        encoded, lengths, _ = self._espnet.encoder(padded, lengths, **ctc)
        encoded = encoded[0] if isinstance(encoded, tuple) else encoded
        if self._espnet.postencoder is not None:
            encoded, lengths = self._espnet.postencoder(encoded, lengths)
        return encoded, lengths

    def _words(self, path: Tensor) -> str:
        return self._text(torch.unique_consecutive(path).tolist())

    def _text(self, ids: Sequence[int]) -> str:
        pieces = self._made.converter.ids2tokens([token for token in ids if token != self._espnet.blank_id])
        text: str = self._made.tokenizer.tokens2text(pieces)
        return text


def claims(folder: Path) -> bool:
    """Whether `folder` has ESPnet's configuration of an ASR model."""
    return (folder / espnet_folder.CONFIG).is_file()


def search_options(search: SearchOptions) -> dict[str, Any]:
    """What ESPnet's beam search takes."""
    known = {name: getattr(search, name) for name in ("beam_size", "ctc_weight", "length_bonus", "max_length_ratio")}
    return known | search.guarding()


def training_options(search: SearchOptions) -> dict[str, Any]:
    """None: the loss is the model's own."""
    return {}


def describe_search(search: SearchOptions) -> str:
    """How much of the score is the CTC layer's."""
    decoder = "CTC alone" if search.ctc_weight == 1 else f"joint decoding, ctc_weight {search.ctc_weight:g}"
    return f"{decoder}, beam {search.beam_size}"


def load_float(folder: Path, search: SearchOptions, device: str) -> Recognizer:
    """The base in full precision.

    Raises:
        PqmError: if the configuration builds no model, or a key of the checkpoint is missing or unknown (ESPnet itself
            would say nothing).
    """
    recognizer = EspnetAed(folder, search, device)
    path = weights_file(folder)
    state = espnet_folder.read_weights(path)
    try:
        recognizer.network.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        lines = " ".join(str(error).split())
        raise PqmError(f"{path} does not fit {folder / espnet_folder.CONFIG}: {lines[:400]}") from error
    return recognizer


def load_skeleton(folder: Path, search: SearchOptions, device: str) -> Recognizer:
    """The architecture of `folder`; its weights hold nothing until packed ones are installed."""
    with WithoutInitialisation():
        return EspnetAed(folder, search, device)


facts = espnet_folder.facts
fetch = espnet_folder.fetch
side_files = espnet_folder.side_files
weights_file = espnet_folder.weights_file
BASELINES: Mapping[str, str] = espnet_stock.BASELINES
TOOLKIT_LORA = espnet_lora.KEY
decode_stock = espnet_stock.decode_stock
STOCK_PROGRESS = espnet_stock.PROGRESS
BATCHES = True
CHOOSES_LANGUAGE = False


def languages(folder: Path) -> tuple[str, ...]:
    """None that it can be told."""
    return ()


def spoken_language(folder: Path, language: str) -> str:
    """Any language but `auto`: it says what the texts are, and changes no word.

    Raises:
        PqmError: if it is no language, or `auto`.
    """
    code = language_code(language)
    if code == AUTO:
        raise PqmError(f"language {AUTO}: a model of ESPnet cannot tell the language: name it, or leave it out")
    return code


train = espnet_train.train_base
training_sample_rate = espnet_train.training_sample_rate
