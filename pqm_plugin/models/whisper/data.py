"""What a Whisper-shaped model is trained on: features and tokens in memory, batches, masks."""

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from pqm_plugin.errors import PqmError
from pqm_plugin.models.training_folder import read_lists
from pqm_plugin.models.whisper import library as whisper_library
from pqm_plugin.models.whisper.options import AugmentOptions, TrainOptions, WhisperOptions
from pqm_plugin.models.whisper.tokens import encode_transcript

SAMPLE_RATE = 16000
FRAMES_PER_S = 100  # of features; the encoder's second convolution halves them
IGNORED = -100
"""Label of what the decoder is given, and of padding."""

_log = logging.getLogger(__name__)
_FLOOR_RANGE = 2.0  # Whisper's features lie at most 8 powers of ten under their maximum, and a power of ten is 1/4
_LOWEST = -1.5  # what it makes of power 1e-10, its least
_BLUR = 2  # frames behind the last sample that still hear it
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
    for key, path in tqdm(paths.items(), desc=f"features of {folder.name}", unit="utt"):
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
            f"{path} cannot be read ({' '.join(str(error).split())}): mend it or drop the utterance"
        ) from error
    if not len(samples):
        raise PqmError(f"{path} holds no sound: mend it or drop the utterance")
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
