"""Settings, tokeniser and batches for training a Whisper-shaped model."""

import json
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pqm_plugin.errors import PqmError
from pqm_plugin.models.training_folder import read_lists
from pqm_plugin.models.whisper import library as whisper_library
from pqm_plugin.progress import Bar
from pqm_plugin.settings import fill, read_yaml

_MAY_BE_ZERO = {"weight_decay", "extra_silence_s", "time_masks", "mel_masks", "time_width_s", "mel_width"}
_SHARES = {"dropout", "full_windows", "ctc_weight", "label_smoothing"}


class _Ranges:
    """Numbers that are above 0, or 0 as well, or from 0 to 1."""

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            name, value = field.name, getattr(self, field.name)
            if is_dataclass(value):
                continue
            if name in _SHARES and not 0 <= value <= 1:
                raise ValueError(f"{name}: {value} must lie between 0 and 1")
            if not (value > 0 or (value == 0 and name in _MAY_BE_ZERO | _SHARES)):
                raise ValueError(f"{name}: {value} must be greater than 0")


@dataclass(frozen=True)
class ModelOptions(_Ranges):
    """Sizes, under the names of transformers' `WhisperConfig`."""

    num_mel_bins: int = 80
    d_model: int = 144
    encoder_layers: int = 4
    encoder_attention_heads: int = 4
    encoder_ffn_dim: int = 432
    decoder_layers: int = 2
    decoder_attention_heads: int = 4
    decoder_ffn_dim: int = 432
    max_target_positions: int = 64
    dropout: float = 0.0
    init_std: float = 0.08


@dataclass(frozen=True)
class TrainOptions(_Ranges):
    """Batches, losses and learning rates."""

    epochs: int = 12
    average: int = 3
    batch_size: int = 8
    full_windows: float = 0.08
    extra_silence_s: float = 0.3
    ctc_weight: float = 0.3
    label_smoothing: float = 0.1
    learning_rate: float = 2e-3
    warmup_steps: int = 300
    weight_decay: float = 0.01
    clip_norm: float = 1.0


@dataclass(frozen=True)
class AugmentOptions(_Ranges):
    """SpecAugment: how many stripes an utterance loses, and their greatest width."""

    time_masks: int = 1
    time_width_s: float = 0.12
    mel_masks: int = 1
    mel_width: int = 10


@dataclass(frozen=True)
class WhisperOptions(_Ranges):
    """Everything in the file."""

    window_s: int = 5
    model: ModelOptions = ModelOptions()
    train: TrainOptions = TrainOptions()
    spec_augment: AugmentOptions = AugmentOptions()


def load_options(config: Path) -> WhisperOptions:
    """Read a settings file over the defaults.

    Raises:
        PqmError: if the file is missing or not YAML, for an unknown name, telling the nearest one, or for a value of
            the wrong kind or range.
    """
    options = fill(WhisperOptions, read_yaml(config, "the settings of a Whisper model"), str(config))
    for side in ("encoder", "decoder"):
        heads = getattr(options.model, f"{side}_attention_heads")
        if options.model.d_model % (2 * heads):
            raise PqmError(f"{config}: model.d_model must be a multiple of twice {side}_attention_heads, {2 * heads}")
    return options


END, START, PREVIOUS, NO_SPEECH, NO_TIMESTAMPS = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|startofprev|>",
    "<|nospeech|>",
    "<|notimestamps|>",
)
# What transformers' tokeniser and generate() look up in an English-only model; one that is missing would silently be
# taken for END. The order counts: generate() expects NO_SPEECH right before NO_TIMESTAMPS, and takes every token after
# NO_TIMESTAMPS for a time. Languages, tasks and times are left out: an English-only model without times writes none.
SPECIAL_TOKENS = (END, START, PREVIOUS, NO_SPEECH, NO_TIMESTAMPS)


def make_tokenizer(texts: Sequence[str], token_type: str, n_tokens: int) -> "whisper_library.WhisperTokenizer":
    """Learn a tokeniser; the same texts give the same files of `save_pretrained`.

    As in Whisper, ids 0 to 255 are the bytes, merged tokens follow, special tokens end the list, and a word carries
    the space before it: a transcript is encoded with a space in front.

    Args:
        texts: transcripts, in the case and spelling that the model is to write.
        token_type: must be `bpe`.
        n_tokens: how many tokens the texts decide: their single bytes and what is merged from them. The bytes that no
            text has come on top, so that any text can be spelled.

    Raises:
        PqmError: for another token type, or if the texts do not hold `n_tokens` tokens.
    """
    if token_type != "bpe":
        raise PqmError(f"token type {token_type!r}: a Whisper tokeniser is byte-level; give --token_type bpe")
    merges = _learn_merges(texts, n_tokens)
    vocabulary = {symbol: index for index, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    for token in SPECIAL_TOKENS:
        vocabulary[token] = len(vocabulary)
    return whisper_library.WhisperTokenizer(
        vocab=vocabulary, merges=merges, pad_token=END, additional_special_tokens=list(SPECIAL_TOKENS)
    )


def encode_transcript(tokenizer: "whisper_library.WhisperTokenizer", text: str) -> list[int]:
    """Ids of a transcript from START and NO_TIMESTAMPS to END, as the decoder reads and writes them."""
    return [int(token) for token in tokenizer(f" {text}").input_ids]


def token_id(tokenizer: "whisper_library.WhisperTokenizer", token: str) -> int:
    """Id of one of `SPECIAL_TOKENS`."""
    return int(tokenizer.vocab[token])


def _learn_merges(texts: Sequence[str], n_tokens: int) -> list[tuple[str, str]]:
    """The pairs to merge, in order."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=n_tokens, show_progress=False)
    learner.train_from_iterator((f" {text}" for text in texts), trainer)
    tokens = learner.get_vocab()
    if len(tokens) != n_tokens:
        bytes_ = sum(len(token) == 1 for token in tokens)
        raise PqmError(
            f"{n_tokens} BPE tokens do not fit {len(texts)} transcripts, which have {bytes_} different bytes: "
            + (f"give --n_tokens {len(tokens)} or less" if len(tokens) < n_tokens else "give a greater --n_tokens")
        )
    return [(left, right) for left, right in json.loads(learner.to_str())["model"]["merges"]]


SAMPLE_RATE = 16000
FRAMES_PER_S = 100  # of features; the encoder's second convolution halves them
IGNORED = -100
"""Label of what the decoder is given, and of padding."""

_log = logging.getLogger(__name__)
_FLOOR_RANGE = 2.0  # Whisper's features lie at most 8 powers of ten under their maximum, and a power of ten is 1/4
_LOWEST = -1.5  # what it makes of power 1e-10, its least
_BLUR = 2  # frames behind the last sample that still depend on it
_JITTER = 0.1  # by how much lengths are blurred when utterances are sorted into batches


@dataclass(frozen=True)
class Utterance:
    """Features float32 (n_mels, T) without the window's silence; ids of START, NO_TIMESTAMPS, the words and END."""

    mel: Tensor
    tokens: list[int]

    @property
    def silence(self) -> float:
        """What Whisper's feature extractor gives for the silence that fills the window up."""
        return max(_LOWEST, float(self.mel.max()) - _FLOOR_RANGE)


@dataclass(frozen=True)
class Batch:
    """Utterances side by side, float32 (B, n_mels, T) and int64 (B, U), on one device; `words` without padding."""

    mel: Tensor
    n_positions: Tensor
    decoder_input: Tensor
    labels: Tensor
    words: Tensor
    n_words: Tensor

    def to(self, device: str) -> "Batch":
        """The same on another device."""
        return Batch(**{name: value.to(device) for name, value in vars(self).items()})


def feature_extractor(options: WhisperOptions) -> "whisper_library.WhisperFeatureExtractor":
    """Whisper's own, for the window of these options."""
    return whisper_library.WhisperFeatureExtractor(
        feature_size=options.model.num_mel_bins, chunk_length=options.window_s
    )


def load_utterances(
    folder: Path, texts: dict[str, str], tokenizer: "whisper_library.WhisperTokenizer", options: WhisperOptions
) -> list[Utterance]:
    """Features and tokens of a data folder; what is longer than the window or the decoder is left out, with a warning.

    Args:
        folder: holds `wav.scp`.
        texts: its transcripts, as the model is to write them.

    Raises:
        PqmError: if nothing is left, or an audio file cannot be read.
    """
    extractor = feature_extractor(options)
    utterances, long = [], []
    paths, _ = read_lists(folder)
    for key, path in Bar(paths.items(), desc=f"features of {folder.name}", unit="utt"):
        audio = _audio(path)
        tokens = encode_transcript(tokenizer, texts[key])
        if len(audio) > extractor.n_samples or len(tokens) > options.model.max_target_positions:
            long.append(key)
            continue
        mel = extractor(audio, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features[0]
        heard = -(-len(audio) // extractor.hop_length) + _BLUR
        utterances.append(Utterance(mel[:, :heard].clone(), tokens))
    limit = f"{options.window_s} s or {options.model.max_target_positions} tokens"
    if not utterances:
        raise PqmError(
            f"{folder}: every utterance is longer than {limit}: make window_s or max_target_positions greater"
        )
    if long:
        _log.warning(
            "%s: %d utterances are longer than %s and left out, the first is %s", folder, len(long), limit, long[0]
        )
    return utterances


def _audio(path: Path) -> np.ndarray:
    try:
        samples = whisper_library.load_audio(str(path), sampling_rate=SAMPLE_RATE, backend="soundfile")
    except (RuntimeError, ValueError, OSError) as error:
        raise PqmError(
            f"{path} cannot be read ({' '.join(str(error).split())}): fix it or drop the utterance"
        ) from error
    if not len(samples):
        raise PqmError(f"{path} holds no audio: fix it or drop the utterance")
    return np.asarray(samples)


def batches(utterances: Sequence[Utterance], batch_size: int, rng: random.Random) -> list[list[Utterance]]:
    """All utterances once, in batches of roughly one length and random order."""
    ordered = sorted(utterances, key=lambda utterance: utterance.mel.shape[1] * (1 + _JITTER * rng.random()))
    made = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
    rng.shuffle(made)
    return made


def training_batch(utterances: Sequence[Utterance], options: WhisperOptions, rng: random.Random) -> Batch:
    """A masked batch with more or less silence behind, since transformers always decodes a whole window."""
    mels = [mask(utterance.mel, options.spec_augment, rng) for utterance in utterances]
    return _collate(utterances, mels, _length(mels, options, options.train, rng))


def whole_windows(utterances: Sequence[Utterance], options: WhisperOptions) -> Batch:
    """A batch as transformers decodes it."""
    return _collate(utterances, [utterance.mel for utterance in utterances], options.window_s * FRAMES_PER_S)


def mask(mel: Tensor, options: AugmentOptions, rng: random.Random) -> Tensor:
    """A copy in which stripes of time and of mel bins are the utterance's mean."""
    masked, mean = mel.clone(), float(mel.mean())
    n_mels, n_frames = mel.shape
    for _ in range(options.time_masks):
        width = rng.randint(0, min(round(options.time_width_s * FRAMES_PER_S), n_frames // 5))
        start = rng.randint(0, n_frames - width)
        masked[:, start : start + width] = mean
    for _ in range(options.mel_masks):
        width = rng.randint(0, min(options.mel_width, n_mels // 2))
        start = rng.randint(0, n_mels - width)
        masked[start : start + width] = mean
    return masked


def _length(mels: Sequence[Tensor], options: WhisperOptions, train: TrainOptions, rng: random.Random) -> int:
    """Frames of a training batch, an even number."""
    window = options.window_s * FRAMES_PER_S
    longest = max(mel.shape[1] for mel in mels) + rng.randint(0, round(train.extra_silence_s * FRAMES_PER_S))
    return window if rng.random() < train.full_windows else min(window, longest + longest % 2)


def _collate(utterances: Sequence[Utterance], mels: Sequence[Tensor], n_frames: int) -> Batch:
    filled = torch.stack(
        [
            torch.nn.functional.pad(mel, (0, n_frames - mel.shape[1]), value=utterance.silence)
            for utterance, mel in zip(utterances, mels, strict=True)
        ]
    )
    tokens = [torch.tensor(utterance.tokens) for utterance in utterances]
    labels = pad_sequence([sequence[1:] for sequence in tokens], batch_first=True, padding_value=IGNORED)
    labels[:, 0] = IGNORED  # NO_TIMESTAMPS, which generate() puts there itself
    return Batch(
        mel=filled,
        n_positions=torch.tensor([(mel.shape[1] + 1) // 2 for mel in mels]),
        decoder_input=pad_sequence([sequence[:-1] for sequence in tokens], batch_first=True),
        labels=labels,
        words=torch.cat([sequence[2:-1] for sequence in tokens]),
        n_words=torch.tensor([len(sequence) - 3 for sequence in tokens]),
    )
