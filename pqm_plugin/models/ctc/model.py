"""wav2vec 2.0 and similar encoders with a CTC layer over characters, by transformers; best-path decoding."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import pad_sequence

from pqm_plugin.devices import device_of, whole_float32
from pqm_plugin.errors import PqmError
from pqm_plugin.models import hub
from pqm_plugin.models.ctc import folder as ctc_folder
from pqm_plugin.models.ctc import library
from pqm_plugin.models.interface import Facts, Family, Hypothesis, Loss, Recognizer, StockDecode, groups
from pqm_plugin.models.networks import WithoutInitialisation, fast_products, load_every_weight
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.models.stock import PROGRESS, decode_by_transformers
from pqm_plugin.words import WordList

_KINDS = (
    (r"feature_extractor\.conv_layers\.\d+\.conv", "feature_conv"),
    (r"feature_projection\.projection", "feature_projection"),
    (r"encoder\.pos_conv_embed\.(layers\.\d+\.)?conv", "position_conv"),
    (r"encoder\.layers\.\d+\.attention\.(q|k|v|out)_proj", "encoder_attention"),
    (r"encoder\.layers\.\d+\.feed_forward\.(intermediate|output)_dense", "encoder_feed_forward"),
)
_OUTPUT = "lm_head"
_PRESETS = {
    "qv": r"encoder\.layers\.\d+\.attention\.[qv]_proj",
    "attention": r"encoder\.layers\.\d+\.attention\.(q|k|v|out)_proj",
    "all_linear": r"encoder\.layers\.\d+\.(attention\.(q|k|v|out)_proj|feed_forward\.\w+_dense)",
}


class CtcRecognizer(Recognizer):
    """A convolutional front, a Transformer encoder and a CTC layer, with the vocabulary and normalisation beside them.

    `features` are what the convolutions give, each clip by itself: with group normalisation their output depends on
    what a clip is padded with. Adapters are on the encoder alone.
    """

    def __init__(self, folder: Path, search: SearchOptions, device: str) -> None:
        config = ctc_folder.read_config(folder)
        self._network = _build(config, folder)
        self.network: nn.Module = self._network.to(device)
        self._inner: Any = self._network.base_model
        self._inside: Tensor | None = None
        # Of data2vec, whose convolutions over positions are several.
        for layer in getattr(self._inner.encoder.pos_conv_embed, "layers", ()):
            layer.register_forward_hook(self._without_padding)
        self._tokenizer = library.Wav2Vec2CTCTokenizer.from_pretrained(folder)
        self._extractor = library.Wav2Vec2FeatureExtractor.from_pretrained(folder)
        self._blank = int(self._network.config.pad_token_id)
        if self._tokenizer.pad_token_id != self._blank:
            raise PqmError(
                f"{folder}: pad_token_id is {self._blank} in {ctc_folder.CONFIG} and {self._tokenizer.pad_token_id} in "
                "the vocabulary: copy both from where this very model was published"
            )
        self.facts = read_facts(folder)
        self._batch_size = search.batch_size

    @property
    def _device(self) -> torch.device:
        return device_of(self.network)

    @property
    def max_batch(self) -> int:
        """As many as the options say."""
        return self._batch_size

    @whole_float32()
    def features(self, audio: np.ndarray) -> Tensor:
        """Output of the convolutions over the normalised samples, float32 (T, D); no frame where there are too few."""
        rate = self._extractor.sampling_rate
        n_frames = self._n_frames(len(audio))
        if n_frames < 1:
            return torch.zeros(0, self._network.config.conv_dim[-1], device=self._device)
        found = self._extractor(audio, sampling_rate=rate, return_tensors="pt").input_values
        with torch.no_grad(), fast_products():
            convolved: Tensor = self._inner.feature_extractor(found.float().to(self._device))
        return convolved[0].T.contiguous()

    def token_ids(self, text: str) -> Tensor:
        """Characters of a transcript, int64 (U,)."""
        return torch.tensor(self._tokenizer(text.strip()).input_ids, dtype=torch.long)

    def reason_untrainable(self, features: Tensor, tokens: Tensor) -> str:
        """Fewer frames than a path with these tokens has: one for each, and a blank between two that are the same."""
        needed = max(1, len(tokens) + int((tokens[1:] == tokens[:-1]).sum()))
        return "" if len(features) >= needed else f"it has {len(features)} frames, its text needs {needed}"

    def losses(self, features: Sequence[Tensor], tokens: Sequence[Tensor], sizes: Sequence[int]) -> list[Loss]:
        """CTC loss; tokens count as right that the best path has in their order."""
        logits, lengths = self._logits(features)
        losses = self._ctc(logits, lengths, tokens)
        with torch.no_grad():
            paths = self._paths(logits, lengths)
        n_right = [len(row) - _distance(row.tolist(), path) for row, path in zip(tokens, paths, strict=True)]
        return [
            Loss(
                losses[rows].sum(),
                rows.stop - rows.start,
                sum(max(0, n) for n in n_right[rows]),
                sum(map(len, tokens[rows])),
            )
            for rows in groups(sizes)
        ]

    def greedy(self, features: Sequence[Tensor]) -> list[str]:
        """Words of the best path."""
        return [found.text for found in self._best(features)]

    def recognize(self, pieces: Sequence[np.ndarray], words: Sequence[WordList | None] = ()) -> list[Hypothesis]:
        """The best path of each piece; its score is the log probability of its words over all paths.

        Raises:
            PqmError: if there are `words`: a best path is not searched.
        """
        if any(words):
            raise PqmError("a CTC model's best path cannot be told words: clear the list, or leave --words out")
        return self._best([self.features(piece) for piece in pieces])

    def _best(self, features: Sequence[Tensor]) -> list[Hypothesis]:
        found = [Hypothesis("", 0.0, 0) for _ in features]
        heard = [place for place, row in enumerate(features) if len(row)]
        if not heard:
            return found
        with torch.no_grad(), fast_products():
            logits, lengths = self._logits([features[place] for place in heard])
            tokens = self._paths(logits, lengths)
            scores = -self._ctc(logits, lengths, [torch.tensor(row, dtype=torch.long) for row in tokens])
        paths = [path[:length] for path, length in zip(logits.argmax(-1), lengths.tolist(), strict=True)]
        for place, path, row, score in zip(heard, paths, tokens, scores.tolist(), strict=True):
            found[place] = Hypothesis(" ".join(self._tokenizer.decode(path).split()), score, len(row))
        return found

    def layer_kinds(self) -> Mapping[str, str]:
        """Kinds by the place of a layer in the network; normalisations and biases of positions are none."""
        prefix = self._network.base_model_prefix
        found = {
            f"{prefix}.{name}": kind
            for name, _ in self._inner.named_modules()
            for kind in [next((kind for pattern, kind in _KINDS if re.fullmatch(pattern, name)), None)]
            if kind is not None
        }
        return found | {_OUTPUT: "output"}

    def adapter_targets(self, preset: str) -> list[str]:
        """Full names of the encoder's linear layers of a preset."""
        if preset not in _PRESETS:
            raise PqmError(f"LoRA targets {preset!r}: use one of {', '.join(_PRESETS)}, or a list of layer names")
        prefix = self._network.base_model_prefix
        names = (name for name, module in self._inner.named_modules() if isinstance(module, nn.Linear))
        return [f"{prefix}.{name}" for name in names if re.fullmatch(_PRESETS[preset], name)]

    def _n_frames(self, n_samples: int) -> int:
        return int(self._network._get_feat_extract_output_lengths(n_samples))

    @whole_float32()
    def _logits(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Scores of all tokens, (B, T, V), and the frames of each row, int64 (B,)."""
        padded = pad_sequence(list(features), batch_first=True).to(self._device)
        lengths = torch.tensor([len(row) for row in features])
        inside = torch.arange(padded.shape[1]) < lengths[:, None]
        projected = self._inner.feature_projection(padded)
        # Of wav2vec 2.0 and WavLM with what it was made of.
        projected = projected[0] if isinstance(projected, tuple) else projected
        self._inside = inside.to(self._device)
        encoded = self._inner.encoder(projected, attention_mask=self._inside)
        logits: Tensor = self._network.lm_head(encoded.last_hidden_state)
        return logits, lengths

    def _ctc(self, logits: Tensor, lengths: Tensor, tokens: Sequence[Tensor]) -> Tensor:
        """Negative log probability of each row's tokens in nats, float32 (B,)."""
        log_p = logits.float().log_softmax(-1).transpose(0, 1)
        labels = torch.cat(list(tokens)).to(log_p.device)
        sizes = torch.tensor([len(row) for row in tokens])
        return functional.ctc_loss(log_p, labels, lengths, sizes, blank=self._blank, reduction="none")

    def _paths(self, logits: Tensor, lengths: Tensor) -> list[list[int]]:
        """Tokens of the best path of each row, without blanks and repetitions."""
        rows = zip(logits.argmax(-1).cpu(), lengths.tolist(), strict=True)
        paths = [torch.unique_consecutive(path[:length]).tolist() for path, length in rows]
        return [[token for token in path if token != self._blank] for path in paths]

    def _without_padding(self, layer: nn.Module, arguments: Any, output: Tensor) -> Tensor:
        """What a convolution over positions gives, (B, D, T), zero behind each row: so the next one finds it alone."""
        return output if self._inside is None else output * self._inside[:, None]


def _build(config: Mapping[str, Any], folder: Path) -> Any:
    """The network of a configuration, its attention and weights such that adapters and packed weights fit."""
    try:
        made = library.AutoConfig.for_model(**config)
        network: Any = library.AutoModelForCTC.from_config(made, dtype=torch.float32, trust_remote_code=False)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, ImportError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise PqmError(f"{folder}: its configuration builds no model ({reason}): fetch or make it again") from error
    for module in network.modules():
        if hasattr(module, "torch_multi_head_self_attention"):
            module.torch_multi_head_self_attention = MethodType(_attend_through_layers, module)
    return network


def _fold_weight_norm(network: nn.Module) -> None:
    """Make one weight of the direction and the length that weight normalisation keeps: it can then be packed."""
    for module in list(network.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")


def _attend_through_layers(
    attention: Any, hidden: Tensor, attention_mask: Tensor | None, bias: Tensor
) -> tuple[Tensor, None]:
    """WavLM's attention by the forward of its layers: transformers takes their weights, and passes by any adapter.

    Args:
        hidden: (B, T, D).
        attention_mask: (B, T), 1 where there is speech.
        bias: of positions, gated, (B * H, T, T).
    """
    n_rows, n_frames, size = hidden.shape
    query, key, value = (
        layer(hidden).view(n_rows, n_frames, attention.num_heads, -1).transpose(1, 2)
        for layer in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    mask = bias.view(n_rows, attention.num_heads, n_frames, n_frames)
    if attention_mask is not None:
        mask = mask.masked_fill(attention_mask.ne(1)[:, None, None], float("-inf"))
    dropout = attention.dropout if attention.training else 0.0
    found = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    return attention.out_proj(found.transpose(1, 2).reshape(n_rows, n_frames, size)), None


def _distance(wanted: Sequence[int], found: Sequence[int]) -> int:
    """Fewest tokens to insert, delete or replace."""
    row = list(range(len(found) + 1))
    for place, token in enumerate(wanted, start=1):
        before, row[0] = row[0], place
        for other, heard in enumerate(found, start=1):
            before, row[other] = row[other], min(row[other] + 1, row[other - 1] + 1, before + (token != heard))
    return row[-1]


def read_facts(folder: Path) -> Facts:
    """Sampling rate of the feature extractor, and the characters of the vocabulary as words are written with them."""
    extractor = library.Wav2Vec2FeatureExtractor.from_pretrained(folder)
    tokenizer = library.Wav2Vec2CTCTokenizer.from_pretrained(folder)
    special = {*tokenizer.all_special_tokens, tokenizer.word_delimiter_token}
    symbols = {token for token in ctc_folder.read_vocabulary(folder) if len(token) == 1 and token not in special}
    lower = {token.lower() for token in symbols} if tokenizer.do_lower_case else symbols
    return Facts(int(extractor.sampling_rate), frozenset(lower | {" "}))


class CtcFamily(Family):
    """CTC models of transformers in Hugging Face's format."""

    NAME = "transformers CTC"
    KEY = "transformers_ctc"
    TOOLKIT = "transformers"
    LIBRARY = ("pqm_plugin.models.ctc.library:AutoModelForCTC", "pqm_plugin.models.ctc.library:Wav2Vec2CTCTokenizer")
    BASELINES = {
        "stock": "transformers' own best path, float32",
        "int8": "transformers' own best path on torch's dynamic int8",
    }
    STOCK_PROGRESS = PROGRESS
    EXPORTS = MappingProxyType({"huggingface": "model"})

    claims = staticmethod(ctc_folder.claims)
    fetch = staticmethod(ctc_folder.fetch)
    facts = staticmethod(read_facts)
    side_files = staticmethod(ctc_folder.side_files)
    weights_file = staticmethod(hub.weights_file)
    source_files = staticmethod(ctc_folder.source_files)

    def search_options(self, search: SearchOptions) -> dict[str, Any]:
        """None: the best path has nothing to choose.

        Raises:
            PqmError: for options that would change words in another family.
        """
        default = SearchOptions()
        for name in ("length_bonus", "max_length_ratio"):
            if getattr(search, name) != getattr(default, name):
                raise PqmError(f"decode.{name}: a CTC model has no such option; leave it out")
        return {}

    def load_float(self, folder: Path, search: SearchOptions, device: str) -> Recognizer:
        """The base in full precision.

        Raises:
            PqmError: if a tensor is missing, unknown or of another shape.
        """
        recognizer = CtcRecognizer(folder, search, "cpu")
        path = self.weights_file(folder)
        state = ctc_folder.read_weights(path, recognizer.network.state_dict())
        load_every_weight(recognizer.network, state, path, folder / ctc_folder.CONFIG)
        _fold_weight_norm(recognizer.network)
        recognizer.network.to(device)
        return recognizer

    def load_skeleton(self, folder: Path, search: SearchOptions, device: str) -> Recognizer:
        """The architecture of `folder`; its weights hold nothing until packed ones are installed."""
        with WithoutInitialisation():
            recognizer = CtcRecognizer(folder, search, device)
            _fold_weight_norm(recognizer.network)
        return recognizer

    def export(self, tool: str, recognizer: Recognizer, source: Path, out: Path, place: Path) -> None:
        """A folder of Hugging Face."""
        ctc_folder.write_model(source, recognizer.network.state_dict(), out)

    def decode_stock(
        self, key: str, folder: Path, wav_scp: Path, out: Path, search: SearchOptions, log: Path
    ) -> StockDecode:
        """By a program that knows transformers alone."""
        weights = self.weights_file(folder)
        return decode_by_transformers(key, folder, weights, wav_scp, out, ["--task", "ctc"], log)
