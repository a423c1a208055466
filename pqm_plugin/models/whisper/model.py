"""Whisper as transformers computes it: an encoder-decoder over a window of fixed length."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from pqm_plugin.biasing import WHISPER_BONUS, Spelling, Tries, WordTrie, of_those
from pqm_plugin.devices import device_of, whole_float32
from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json
from pqm_plugin.models import hub
from pqm_plugin.models.interface import Facts, Family, Hypothesis, Loss, Recognizer, StockDecode, groups
from pqm_plugin.models.language import language_code
from pqm_plugin.models.networks import WithoutInitialisation, load_every_weight
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.models.silence import cut_at_silence
from pqm_plugin.models.stock import PROGRESS, decode_by_transformers
from pqm_plugin.models.whisper import export as whisper_export
from pqm_plugin.models.whisper import folder as whisper_folder
from pqm_plugin.models.whisper import library as whisper_library
from pqm_plugin.models.whisper import tables as whisper_tables
from pqm_plugin.models.whisper import train as whisper_train
from pqm_plugin.models.whisper.context import MARGIN, SAMPLED
from pqm_plugin.models.whisper.encoding import Encoded, Weighing, encode
from pqm_plugin.models.whisper.guard import Attempt, ExpectedWords, Guard, no_speech_token, spelling_of
from pqm_plugin.models.whisper.tables import Prompt, read_prompt, writes_case
from pqm_plugin.words import WordList

_KINDS = (
    (r"model\.encoder\.conv\d", "encoder_conv"),
    (r"model\.encoder\.layers\.\d+\.self_attn\..*", "encoder_attention"),
    (r"model\.encoder\.layers\.\d+\.fc\d", "encoder_feed_forward"),
    (r"model\.decoder\.embed_tokens", "embedding"),
    (r"proj_out", "output"),
    (r"model\.decoder\.layers\.\d+\.self_attn\..*", "decoder_attention"),
    (r"model\.decoder\.layers\.\d+\.encoder_attn\..*", "cross_attention"),
    (r"model\.decoder\.layers\.\d+\.fc\d", "decoder_feed_forward"),
)
_ATTENTION = r"model\..*\.(self_attn|encoder_attn)\."
_PRESETS = {
    "qv": _ATTENTION + "[qv]_proj",
    "attention": _ATTENTION + "(q|k|v|out)_proj",
    "all_linear": r"model\.(encoder|decoder)\.layers\..*",
    "all_linear_and_conv": r"model\.(encoder|decoder)\.(layers\..*|conv\d)",
}


def layer_kinds(network: nn.Module) -> Mapping[str, str]:
    """Kind of every layer with a matrix, by its name in `network`; positions and normalisations are none."""
    found = {
        name: kind
        for name, _ in network.named_modules(remove_duplicate=False)
        for kind in [next((kind for pattern, kind in _KINDS if re.fullmatch(pattern, name)), None)]
        if kind is not None
    }
    if "proj_out" in found and getattr(getattr(network, "config", None), "tie_word_embeddings", True):
        # One weight under two names.
        found["proj_out"] = "embedding"
    return found


def adapter_targets(network: nn.Module, preset: str) -> list[str]:
    """Full names of the layers of a LoRA preset.

    With adapters on convolutions, `generate` of plain transformers wants `conv1.stride` and `conv2.stride` set.

    Raises:
        PqmError: if there is no such preset.
    """
    if preset not in _PRESETS:
        raise PqmError(f"LoRA targets {preset!r}: use one of {', '.join(_PRESETS)}, or a list of layer names")
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv1d) and re.fullmatch(_PRESETS[preset], name)
    ]


_POSITIONS = "model.encoder.embed_positions.weight"
_SAME_POSITIONS = 1e-3  # published checkpoints round the sinusoids to float16
_IGNORED = -100


class Whisper(Recognizer):
    """A Whisper model with its tokeniser, and transformers' own search over it."""

    def __init__(self, folder: Path, search: SearchOptions, device: str) -> None:
        config = whisper_library.WhisperConfig.from_dict(whisper_folder.read_config(folder))
        network: Any = whisper_library.WhisperForConditionalGeneration(config)
        self.network: nn.Module = network.to(device)
        self._whisper = network
        self._prompt: Prompt = read_prompt(folder, search.language)
        self._whisper.generation_config = self._prompt.generation_config
        self._tokenizer = whisper_library.WhisperTokenizer.from_pretrained(folder)
        self._extractor = whisper_library.WhisperFeatureExtractor.from_pretrained(folder)
        self._beam_size = search.beam_size
        self._guard = Guard(search) if search.guard == "always" else None
        self._no_speech = no_speech_token(self._tokenizer)
        self._clip = search.context == "clip"
        self._weighing = Weighing(network.model.decoder)
        self._window = 2 * config.max_source_positions
        self._max_tokens = config.max_target_positions - len(self._prompt.tokens)
        self.facts = read_facts(folder)
        self._batch_size = search.batch_size
        self._tries = Tries(self._spelling, WHISPER_BONUS, search.words_weight)

    @property
    def _device(self) -> torch.device:
        return device_of(self.network)

    @property
    def max_batch(self) -> int:
        """As many as the options say."""
        return self._batch_size

    @property
    def built_in(self) -> frozenset[str]:
        """The sinusoids of the encoder's positions, where they are just these."""
        positions = self.network.get_parameter(_POSITIONS)
        expected = whisper_library.sinusoids(*positions.shape).to(positions)
        return frozenset({_POSITIONS} if bool((positions - expected).abs().max() < _SAME_POSITIONS) else ())

    def features(self, audio: np.ndarray) -> Tensor:
        """Log-mel spectrogram, float32 (T, D) at 100 frames a second; what follows it is as its last frame."""
        rate, hop = self._extractor.sampling_rate, self._extractor.hop_length
        found = self._extractor(audio, sampling_rate=rate, padding="max_length", truncation=False, return_tensors="pt")
        frames = found.input_features[0].T
        # Frames that depend on the clip, and one of silence.
        heard = (len(audio) + self._extractor.n_fft // 2) // hop + 2
        return frames[:heard].contiguous().to(self._device)

    def token_ids(self, text: str) -> Tensor:
        """Tokens of a transcript as Whisper writes it, with a blank before it, int64 (U,)."""
        ids = self._tokenizer(f" {text.strip()}", add_special_tokens=False).input_ids
        return torch.tensor(ids, dtype=torch.long)

    def reason_untrainable(self, features: Tensor, tokens: Tensor) -> str:
        """More audio than the window, or more tokens than the decoder has positions."""
        if len(features) > self._window:
            return f"it is longer than the {self._window / 100:g} seconds of the model's window"
        if len(tokens) >= self._max_tokens:
            return f"it has {len(tokens)} tokens, the model writes {self._max_tokens - 1} at most"
        return ""

    def losses(self, features: Sequence[Tensor], tokens: Sequence[Tensor], sizes: Sequence[int]) -> list[Loss]:
        """The same of each group; encoder and decoder run once."""
        logits, labels = self._forced(self._encode(features), tokens)
        counted = labels != _IGNORED
        n_right, n_counted = ((logits.argmax(-1) == labels) & counted).sum(1).tolist(), counted.sum(1).tolist()
        return [
            Loss(
                functional.cross_entropy(
                    logits[rows].flatten(0, 1), labels[rows].flatten(), ignore_index=_IGNORED, reduction="sum"
                ),
                rows.stop - rows.start,
                sum(n_right[rows]),
                sum(n_counted[rows]),
            )
            for rows in groups(sizes)
        ]

    def greedy(self, features: Sequence[Tensor]) -> list[str]:
        """Words of the likeliest token after token."""
        return [found.text for found in self._search(features, 1)]

    def pieces(self, audio: np.ndarray) -> list[np.ndarray]:
        """Pieces that fit the window, cut where nobody speaks."""
        return cut_at_silence(audio, self.facts.sample_rate, self._window / 100)

    def recognize(self, pieces: Sequence[np.ndarray], words: Sequence[WordList | None] = ()) -> list[Hypothesis]:
        """Beam search over all pieces at once, with cached keys and values."""
        features, tries = [self.features(piece) for piece in pieces], self._tries.of(words)
        with torch.no_grad():
            encoded = self._encode(features)
            if self._guard is None:
                found = self._attempts(encoded, self._beam_size, tries=tries)
                return [each.hypothesis for each in found]
            return self._guard.recognize(
                partial(self._attempts, encoded, tries=tries),
                self._beam_size,
                partial(self._scored, encoded),
                len(self._prompt.tokens),
                [len(piece) / self.facts.sample_rate for piece in pieces],
                expects=bool(tries),
            )

    def speak(self, language: str) -> None:
        """Give the decoder this language's token from now on."""
        self._prompt = self._prompt.spoken_in(language)

    def language_of(self, pieces: Sequence[np.ndarray]) -> str:
        """By the mean log probability of the language tokens after the start."""
        start = torch.full((len(pieces), 1), self._prompt.tokens[0], device=self._device)
        with torch.no_grad():
            encoded = self._encode([self.features(piece) for piece in pieces])
            return self._prompt.likeliest_language(self._logits(encoded, start)[:, 0])

    def _spelling(self) -> Spelling:
        return spelling_of(self._tokenizer, self._whisper.config.vocab_size)

    def layer_kinds(self) -> Mapping[str, str]:
        """Kinds by the place of a layer in the network; positions and normalisations are none."""
        return layer_kinds(self.network)

    def adapter_targets(self, preset: str) -> list[str]:
        """Full names of the layers of a preset; `all_linear_and_conv` has the encoder's two convolutions, too."""
        return adapter_targets(self.network, preset)

    def layer_stack(self) -> list[str]:
        """The encoder's convolutions and its layers."""
        n_layers = len(self._whisper.model.encoder.layers)
        layers = ["conv1", "conv2", *(f"layers.{place}" for place in range(n_layers))]
        return [f"model.encoder.{name}" for name in layers]

    def _search(self, features: Sequence[Tensor], beam_size: int) -> list[Hypothesis]:
        with torch.no_grad():
            return [found.hypothesis for found in self._attempts(self._encode(features), beam_size)]

    def _attempts(
        self,
        encoded: Encoded,
        beam_size: int,
        tries: Sequence[WordTrie | None] = (),
        *,
        expects: Sequence[bool] = (),
        **options: Any,
    ) -> list[Attempt]:
        tries = of_those(tries, expects)
        if tries:
            expected = ExpectedWords(tries, beam_size, len(self._prompt.tokens))
            options["logits_processor"] = whisper_library.LogitsProcessorList([expected])
        with self._weighing.by(encoded.weights):
            found = self._whisper.generate(
                # Made anew: `generate` repeats the rows for its beams in what it is given, and a second search would
                # hear the first piece in the place of the others.
                encoder_outputs=encoded.outputs(),
                attention_mask=torch.ones(len(encoded.hidden), self._window, dtype=torch.long, device=self._device),
                num_beams=beam_size,
                use_cache=True,
                **self._prompt.generate_options,
                **options,
            )
        rows = [self._prompt.text_of(row) for row in found.tolist()]
        given = [torch.tensor(row[: self._max_tokens], dtype=torch.long) for row in rows]
        scores, silence = self._log_probabilities(encoded, given)
        texts = self._tokenizer.batch_decode(rows, skip_special_tokens=True)
        return [
            Attempt(Hypothesis(" ".join(text.split()), score, len(row)), no_speech, row)
            for text, score, row, no_speech in zip(texts, scores.tolist(), given, silence.tolist(), strict=True)
        ]

    def _scored(self, encoded: Encoded, texts: Sequence[str]) -> list[Hypothesis]:
        """Texts, one a row, as hypotheses with their scores under the model."""
        tokens = [self.token_ids(text)[: self._max_tokens] for text in texts]
        scores, _ = self._log_probabilities(encoded, tokens)
        return [Hypothesis(*row) for row in zip(texts, scores.tolist(), map(len, tokens), strict=True)]

    def _log_probabilities(self, encoded: Encoded, tokens: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Of each text and its end under the model, and the probability that nobody speaks, float32 (B,) each."""
        logits, labels = self._forced(encoded, tokens)
        silence = logits[:, 0].softmax(-1)[:, self._no_speech] if self._no_speech else logits.new_zeros(len(logits))
        flat = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=_IGNORED, reduction="none")
        return -flat.reshape(labels.shape).sum(1), silence

    def _forced(self, encoded: Encoded, tokens: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits with each text given, (B, U, V), and the labels, int64 (B, U): the text and its end alone."""
        start, end = torch.tensor(self._prompt.tokens), torch.tensor([self._prompt.end])
        rows = [torch.cat([start, row.cpu(), end]) for row in tokens]
        ids = pad_sequence(rows, batch_first=True, padding_value=self._prompt.end).to(self._device)
        labels = pad_sequence(rows, batch_first=True, padding_value=_IGNORED).to(self._device)[:, 1:].clone()
        labels[:, : len(start) - 1] = _IGNORED
        return self._logits(encoded, ids[:, :-1]), labels

    def _logits(self, encoded: Encoded, ids: Tensor) -> Tensor:
        """Of the token after each that is given, int64 (B, U), as (B, U, V)."""
        with self._weighing.by(encoded.weights):
            found = self._whisper.model(encoder_outputs=encoded.outputs(), decoder_input_ids=ids, use_cache=False)
        return self._whisper.proj_out(found.last_hidden_state)

    @whole_float32()
    def _encode(self, features: Sequence[Tensor]) -> Encoded:
        """Encode each row with silence after it, up to the window, or only what is spoken."""
        return encode(self._whisper.model.encoder, features, self._window, clip=self._clip)


def _context(search: SearchOptions) -> dict[str, Any]:
    """What is encoded; of places, how many, since what was learned or measured with others is not the same."""
    places = {"clip_places": [MARGIN, SAMPLED]} if search.context == "clip" else {}
    return {"context": search.context, **places}


def read_facts(folder: Path) -> Facts:
    """Sampling rate of the feature extractor; byte-level tokens can spell any text."""
    return Facts(_sample_rate(folder), None, writes_case(folder))


def _sample_rate(folder: Path) -> int:
    """In Hz; from the usual file without transformers, which takes seconds to import."""
    path = folder / "preprocessor_config.json"
    rate = read_json(path).get("sampling_rate") if path.is_file() else None
    if isinstance(rate, int) and rate > 0:
        return rate
    return int(whisper_library.WhisperFeatureExtractor.from_pretrained(folder).sampling_rate)


class WhisperFamily(Family):
    """Whisper folders in Hugging Face's format, and what becomes one: CTranslate2's, openai-whisper's, the hub's."""

    NAME = "Whisper"
    KEY = "whisper"
    TOOLKIT = "transformers"
    LIBRARY = ("pqm_plugin.models.whisper.library:WhisperForConditionalGeneration",)
    BASELINES = {
        "stock": "transformers' own generate, float32",
        "int8": "transformers' own generate on torch's dynamic int8",
    }
    STOCK_PROGRESS = PROGRESS
    CHOOSES_LANGUAGE = True
    EXPORTS = MappingProxyType({"huggingface": "model", "faster-whisper": "model", "vllm": "adapter"})
    TAKES_WORDS = True

    claims = staticmethod(whisper_folder.claims)
    fetch = staticmethod(whisper_folder.fetch)
    facts = staticmethod(read_facts)
    side_files = staticmethod(whisper_folder.side_files)
    weights_file = staticmethod(hub.weights_file)
    source_files = staticmethod(whisper_folder.source_files)
    spoken_language = staticmethod(whisper_tables.spoken_language)
    languages = staticmethod(whisper_tables.languages)

    def search_options(self, search: SearchOptions) -> dict[str, Any]:
        """What transformers' search takes, and how audio is laid before it.

        Raises:
            PqmError: for options that this family does not have.
        """
        default = SearchOptions()
        for name in ("length_bonus", "max_length_ratio"):
            if getattr(search, name) != getattr(default, name):
                raise PqmError(f"decode.{name}: Whisper has no such option; leave it out")
        known = {name: getattr(search, name) for name in ("beam_size", "batch_size")}
        return known | {"language": language_code(search.language)} | _context(search) | search.guarding()

    def training_options(self, search: SearchOptions) -> dict[str, Any]:
        """The prompt's language and what is encoded."""
        return {"language": language_code(search.language), **_context(search)}

    def describe_search(self, search: SearchOptions) -> str:
        """Greedy or beam, and what is encoded where that is not the whole window."""
        how = "greedy" if search.beam_size == 1 else f"beam {search.beam_size}"
        how += ", guarded" if search.guard == "always" else ""
        return f"{how}, encoding what is spoken" if search.context == "clip" else how

    def load_float(self, folder: Path, search: SearchOptions, device: str) -> Recognizer:
        """The base in full precision.

        Raises:
            PqmError: if a tensor is missing, unknown or of another shape.
        """
        recognizer = Whisper(folder, search, "cpu")
        path = self.weights_file(folder)
        state = hub.read_weights(path)
        tied = whisper_folder.tied_output(path, state, recognizer.network.config)
        load_every_weight(recognizer.network, tied | state, path, folder / whisper_folder.CONFIG)
        recognizer.network.to(device)
        return recognizer

    def load_skeleton(self, folder: Path, search: SearchOptions, device: str) -> Recognizer:
        """The architecture of `folder`; its weights hold nothing until packed ones are installed."""
        with WithoutInitialisation():
            return Whisper(folder, search, device)

    def export(self, tool: str, recognizer: Recognizer, source: Path, out: Path, place: Path) -> None:
        """A folder of Hugging Face, or of CTranslate2 for faster-whisper."""
        write = whisper_export.to_faster_whisper if tool == "faster-whisper" else whisper_export.to_huggingface
        write(recognizer.network, source, out)

    def adapter_obstacle(self, tool: str, config: Mapping[str, Any], layers: Mapping[str, Any]) -> str:
        """By the rules of vLLM's loader."""
        return whisper_export.vllm_obstacle(config, layers)

    def adapter_note(self, tool: str, config: Mapping[str, Any]) -> str:
        """How vLLM is to be started."""
        rank = whisper_export.vllm_rank(config["r"])
        return f"start vLLM with --enable-lora --max-lora-rank {rank} on the model of `--to huggingface --plain`"

    def decode_stock(
        self, key: str, folder: Path, wav_scp: Path, out: Path, search: SearchOptions, log: Path
    ) -> StockDecode:
        """By transformers' own `generate`."""
        arguments = ["--num_beams", str(search.beam_size), "--language", search.language]
        return decode_by_transformers(key, folder, self.weights_file(folder), wav_scp, out, arguments, log)

    def training_sample_rate(self, config: Path) -> int:
        """The rate of the feature extractor."""
        return whisper_train.training_sample_rate(config)

    def train(self, train_data: Path, valid_data: Path, config: Path, out: Path, **options: Any) -> None:
        """From random weights, see `train.py`."""
        whisper_train.train_base(train_data, valid_data, config, out, **options)
