"""Hybrid CTC/attention encoder-decoders of ESPnet: Conformer, E-Branchformer or Transformer."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from pqm_plugin.biasing import ESPNET_BONUS, Spelling, Tries
from pqm_plugin.devices import device_of, whole_float32
from pqm_plugin.errors import PqmError
from pqm_plugin.models.espnet import folder as espnet_folder
from pqm_plugin.models.espnet import layers as espnet_layers
from pqm_plugin.models.espnet import lora as espnet_lora
from pqm_plugin.models.espnet import stock as espnet_stock
from pqm_plugin.models.espnet import train as espnet_train
from pqm_plugin.models.espnet.hooks import SearchMisfitError, batched_search, build
from pqm_plugin.models.espnet.layers import fast_attention, relative_attentions
from pqm_plugin.models.espnet.search import BatchedSearch, Found
from pqm_plugin.models.interface import Family, Hypothesis, Loss, Recognizer, StockDecode, groups
from pqm_plugin.models.networks import WithoutInitialisation, fast_products, load_every_weight
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.models.repetition import compression_ratio, without_loops
from pqm_plugin.words import WordList

# What the deepest of ESPnet's convolutional subsamplings needs for one frame of its own.
_MIN_FRAMES = 15
# Lengths of two clips whose encodings are compared, alone and in a batch.
_TRIAL_S = (0.9, 0.6)
# How far its encodings may be apart, by the rounding of float32.
_APART = 1e-3


class EspnetAed(Recognizer):
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
        self.facts = espnet_folder.facts(folder)
        self._folder, self._search = folder, search
        self._tries = Tries(self._spelling, ESPNET_BONUS, search.words_weight)

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

    def reason_untrainable(self, features: Tensor, tokens: Tensor) -> str:
        """Fewer frames than the subsampling needs."""
        return "" if len(features) >= _MIN_FRAMES else f"it has {len(features)} frames, too few to train on"

    def losses(self, features: Sequence[Tensor], tokens: Sequence[Tensor], sizes: Sequence[int]) -> list[Loss]:
        """ESPnet's mixture of CTC and attention losses, see `_losses`."""
        return _losses(self._espnet, *self._encode(features), tokens, sizes)

    def optimized_attention(self) -> AbstractContextManager[None]:
        """Self-attention over relative positions, where it is ESPnet's as it is known here and without dropout."""
        return fast_attention(self._attentions)

    def greedy(self, features: Sequence[Tensor]) -> list[str]:
        """Words of the best CTC path."""
        with torch.no_grad():
            return self._ctc_words(*self._encode(features))

    def _ctc_words(self, encoded: Tensor, lengths: Tensor) -> list[str]:
        paths = self._espnet.ctc.argmax(encoded)
        return [self._words(path[:length]) for path, length in zip(paths, lengths.tolist(), strict=True)]

    def recognize(self, pieces: Sequence[np.ndarray], words: Sequence[WordList | None] = ()) -> list[Hypothesis]:
        """Joint CTC/attention beam search over all pieces; words are empty where the audio is too short.

        Raises:
            PqmError: if there are `words` and ESPnet's own search is used, or one cannot be written.
        """
        tries = self._tries.of(words)
        try:
            if self._batched is None:
                if tries:
                    raise PqmError(
                        f"{self._folder}: ESPnet's own search is used, which cannot be told words: clear them"
                    )
                return without_loops([self._search_alone(audio) for audio in pieces], self._search, None)
            # Of the encoder alone: the decoder's products are so many and so small that the detour costs more.
            with torch.no_grad(), fast_products(), self.optimized_attention():
                encoded, lengths = self._encode([self.features(audio) for audio in pieces])
            found = [self._hypothesis(each) for each in self._batched(encoded, lengths, tries)]
            if tries and self._search.guard == "always" and any(map(self._repeats, found)):
                plain = [self._hypothesis(each) for each in self._batched(encoded, lengths)]
                found = [two if self._repeats(one) else one for one, two in zip(found, plain, strict=True)]
            return without_loops(found, self._search, partial(self._ctc_words, encoded, lengths))
        except Exception as error:
            # The longest piece is too short for ESPnet's subsampling.
            if type(error).__name__ != "TooShortUttError":
                raise
            return [self._hypothesis(None) for _ in pieces]

    def _repeats(self, found: Hypothesis) -> bool:
        """Whether it repeats itself, as one may that expects words."""
        return compression_ratio(found.text) > self._search.compression_ratio_threshold

    def _search_alone(self, audio: np.ndarray) -> Hypothesis:
        text, _, _, best = self.speech2text(audio)[0]
        return Hypothesis(text=text, score=float(best.score), n_tokens=len(best.yseq) - 2)

    def _hypothesis(self, found: Found | None) -> Hypothesis:
        if found is None:
            return Hypothesis(text="", score=0.0, n_tokens=0)
        return Hypothesis(self._text(found.tokens), found.score, len(found.tokens))

    def _spelling(self) -> Spelling:
        model, pieces = self._espnet, self._made.converter.token_list
        marks = (place for place, piece in enumerate(pieces) if piece.startswith("<") and piece != "<space>")
        silent = {model.blank_id, model.sos, model.eos, *marks}
        return Spelling.of_pieces(pieces, silent, self.facts.symbols or frozenset())

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
        if alone.shape[1] == int(lengths[1]) and torch.allclose(together[1, : alone.shape[1]], alone[0], atol=_APART):
            return True
        logging.warning("batching disabled: the encoder's output depends on padding")
        return False

    def layer_kinds(self) -> Mapping[str, str]:
        """Kinds by the place of a layer in the network; normalisations and activations are none."""
        return espnet_layers.layer_kinds(self.network)

    def adapter_targets(self, preset: str) -> list[str]:
        """Full names of the linear layers of a preset; positional projections belong to `all_linear` alone."""
        return espnet_layers.adapter_targets(self.network, preset)

    def attach_toolkit_lora(self, targets: Sequence[str], rank: int, alpha: float, dropout: float) -> int:
        """ESPnet's own, over loralib."""
        return espnet_layers.attach_lora(self.network, targets, rank, alpha, dropout)

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


class EspnetFamily(Family):
    """Experiment folders of ESPnet."""

    NAME = "ESPnet AED"
    KEY = "espnet_aed"
    TOOLKIT = "ESPnet"
    LIBRARY = ("pqm_plugin.models.espnet.library:Speech2Text",)
    BASELINES = espnet_stock.BASELINES
    TOOLKIT_LORA = espnet_layers.TOOLKIT_LORA
    STOCK_PROGRESS = espnet_stock.PROGRESS
    EXPORTS = MappingProxyType({"espnet": "model"})
    TAKES_WORDS = True

    claims = staticmethod(espnet_folder.claims)
    fetch = staticmethod(espnet_folder.fetch)
    facts = staticmethod(espnet_folder.facts)
    side_files = staticmethod(espnet_folder.side_files)
    weights_file = staticmethod(espnet_folder.weights_file)
    files_elsewhere = staticmethod(espnet_folder.files_elsewhere)

    def search_options(self, search: SearchOptions) -> dict[str, Any]:
        """What ESPnet's beam search takes."""
        known = {
            name: getattr(search, name) for name in ("beam_size", "ctc_weight", "length_bonus", "max_length_ratio")
        }
        return known | search.guarding()

    def describe_search(self, search: SearchOptions) -> str:
        """How much of the score is the CTC layer's."""
        decoder = "CTC alone" if search.ctc_weight == 1 else f"joint decoding, ctc_weight {search.ctc_weight:g}"
        return f"{decoder}, beam {search.beam_size}"

    def load_float(self, folder: Path, search: SearchOptions, device: str) -> Recognizer:
        """The base in full precision.

        Raises:
            PqmError: if the configuration builds no model, or a key of the checkpoint is missing or unknown (ESPnet
                itself would say nothing).
        """
        recognizer = EspnetAed(folder, search, device)
        path = self.weights_file(folder)
        state = espnet_folder.read_weights(path)
        load_every_weight(recognizer.network, state, path, folder / espnet_folder.CONFIG)
        return recognizer

    def load_skeleton(self, folder: Path, search: SearchOptions, device: str) -> Recognizer:
        """The architecture of `folder`; its weights hold nothing until packed ones are installed."""
        with WithoutInitialisation():
            return EspnetAed(folder, search, device)

    def decode_stock(
        self, key: str, folder: Path, wav_scp: Path, out: Path, search: SearchOptions, log: Path
    ) -> StockDecode:
        """By `espnet2.bin.asr_inference`."""
        return espnet_stock.decode_stock(key, folder, wav_scp, out, search, log)

    def export(self, tool: str, recognizer: Recognizer, source: Path, out: Path, place: Path) -> None:
        """An experiment folder."""
        espnet_folder.write_experiment(source, recognizer.network.state_dict(), out, place)

    def adapter_as_peft(self, source: Path, base: Path | None, out: Path) -> bool:
        """ESPnet's own LoRA, over loralib."""
        return espnet_lora.to_peft(source, base, out)

    def training_sample_rate(self, config: Path) -> int:
        """The rate of the frontend."""
        return espnet_train.training_sample_rate(config)

    def train(self, train_data: Path, valid_data: Path, config: Path, out: Path, **options: Any) -> None:
        """By `espnet2.bin.asr_train`, see `train.py`."""
        espnet_train.train_base(train_data, valid_data, config, out, **options)


def _losses(model: Any, encoded: Tensor, lengths: Tensor, tokens: Sequence[Tensor], sizes: Sequence[int]) -> list[Loss]:
    """ESPnet's own mixture of CTC and attention losses with the model's `ctc_weight` and label smoothing.

    The decoder runs once; each group has the loss that ESPnet's `_calc_att_loss` and `_calc_ctc_loss` give for it.

    Args:
        model: ESPnet's, with a decoder and a CTC layer.
        encoded: (B, T, D), of which `lengths`, int64 (B,), are not padding.
        tokens: of each row, int64 (U,).
        sizes: rows of each group, one after another.
    """
    device = encoded.device
    text = pad_sequence(list(tokens), batch_first=True, padding_value=model.ignore_id).to(device)
    text_lengths = torch.tensor([len(row) for row in tokens], device=device)
    logits, labels = _decoded(model, encoded, lengths, tokens)
    counted = labels != model.ignore_id
    n_right, n_counted = ((logits.argmax(-1) == labels) & counted).sum(1).tolist(), counted.sum(1).tolist()
    found = []
    for rows in groups(sizes):
        attention = model.criterion_att(logits[rows], labels[rows])
        ctc, _ = model._calc_ctc_loss(encoded[rows], lengths[rows], text[rows], text_lengths[rows])
        n_rows = rows.stop - rows.start
        # ESPnet's losses are means over the batch's utterances.
        total = (model.ctc_weight * ctc + (1 - model.ctc_weight) * attention) * n_rows
        found.append(Loss(total.squeeze(), n_rows, sum(n_right[rows]), sum(n_counted[rows])))
    return found


def _decoded(model: Any, encoded: Tensor, lengths: Tensor, tokens: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Logits with each text given, (B, U + 1, V), and the labels, int64 (B, U + 1): the text and its end."""
    start, end = (torch.tensor([token]) for token in (model.sos, model.eos))
    language = getattr(model, "lang_token_id", None)
    rows = [row.cpu() if language is None else torch.cat([language.flatten().cpu(), row.cpu()]) for row in tokens]
    given, labels = [torch.cat([start, row]) for row in rows], [torch.cat([row, end]) for row in rows]
    into = pad_sequence(given, batch_first=True, padding_value=model.eos).to(encoded.device)
    into_lengths = torch.tensor([len(row) for row in given], device=encoded.device)
    logits, _ = model.decoder(encoded, lengths, into, into_lengths)
    return logits, pad_sequence(labels, batch_first=True, padding_value=model.ignore_id).to(encoded.device)


def espnet_nbest(recognizer: Recognizer, speech: Any, n: int) -> list[tuple[Any, ...]]:
    """Tuples of text, tokens, token ids and ESPnet's `Hypothesis`, best first, from the search of ESPnet itself.

    Args:
        speech: float32 (n_samples,) at the model's rate, an array or a tensor, as `Speech2Text.__call__` takes it.

    Raises:
        PqmError: if the recogniser is of another family.
    """
    speech2text = getattr(recognizer, "speech2text", None)
    if speech2text is None:
        raise PqmError("n-best tuples are ESPnet's: for a model of another family use `transcribe`")
    before, speech2text.nbest = speech2text.nbest, n
    try:
        found: list[tuple[Any, ...]] = speech2text(
            np.asarray(speech, dtype=np.float32) if isinstance(speech, list) else speech
        )
    finally:
        speech2text.nbest = before
    return found
