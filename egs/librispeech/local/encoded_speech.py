"""Utterances of LibriSpeech, and what Whisper's encoder makes of them."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from pqm_plugin.errors import PqmError
from pqm_plugin.files import whole_file

HEADS, WIDTH, LAYERS, MEL_BINS = 6, 384, 4, 80  # of tiny.en
MAX_FRAMES = 1500  # of the encoder's output: 30 s
SAMPLE_RATE = 16000  # in Hz
_SAMPLES_PER_FRAME = 320


@dataclass
class Utterance:
    """One utterance; the later fields are filled in as they become known."""

    key: str
    reader: str
    flac: Path
    words: list[str]  # lower case
    n_frames: int = 0  # of the encoder's output that hold speech
    encoded: np.ndarray = field(default_factory=lambda: np.empty((0, WIDTH), np.float16))  # (MAX_FRAMES, WIDTH)
    spans: list[tuple[int, int]] = field(default_factory=list)  # a word's first and last frame
    ids: list[list[int]] = field(default_factory=list)  # a word's tokens


def read_utterances(corpus: Path, sets: Sequence[str], exclude: Collection[str]) -> Iterator[Utterance]:
    """The utterances of `sets`, sorted by file, without those of the readers in `exclude`.

    Raises:
        PqmError: if the corpus lacks a set.
    """
    for name in sets:
        if not (corpus / name).is_dir():
            raise PqmError(f"{corpus / name} is missing: --corpus is the folder that holds the sets")
        for listing in sorted((corpus / name).glob("*/*/*.trans.txt")):
            for line in listing.read_text(encoding="utf-8").splitlines():
                key, _, text = line.strip().partition(" ")
                reader = key.split("-")[0]
                if reader not in exclude:
                    yield Utterance(key, reader, listing.parent / f"{key}.flac", text.lower().split())


def read_audio(path: Path) -> np.ndarray:
    """Samples in float64.

    Raises:
        PqmError: if the file cannot be read or has another rate than 16 kHz.
    """
    try:
        audio, rate = soundfile.read(path)
    except (OSError, soundfile.LibsndfileError) as error:
        raise PqmError(f"{path} cannot be read ({error}): unpack the corpus again") from error
    if rate != SAMPLE_RATE:
        raise PqmError(f"{path} has {rate} Hz: it must have {SAMPLE_RATE}")
    return audio


def encode(utterances: Sequence[Utterance], tensors: Mapping[str, Tensor], cache: Path) -> None:
    """Fill in `n_frames` and `encoded`, from float16 files in `cache` where they are there, and else by the encoder."""
    config = WhisperConfig(
        num_mel_bins=MEL_BINS,
        encoder_layers=LAYERS,
        encoder_attention_heads=HEADS,
        d_model=WIDTH,
        encoder_ffn_dim=4 * WIDTH,
        max_source_positions=MAX_FRAMES,
    )
    encoder = WhisperEncoder(config).eval()
    state = {name.removeprefix("encoder."): value for name, value in tensors.items() if name.startswith("encoder.")}
    encoder.load_state_dict(state)
    features = WhisperFeatureExtractor(feature_size=MEL_BINS)
    for utterance in utterances:
        audio = read_audio(utterance.flac)
        utterance.n_frames = min(MAX_FRAMES, len(audio) // _SAMPLES_PER_FRAME)
        path = cache / f"{utterance.key}.npy"
        if not path.exists():
            window = audio[: MAX_FRAMES * _SAMPLES_PER_FRAME]
            mel = features(window, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
            with torch.inference_mode():
                output = encoder(mel).last_hidden_state[0].half().numpy()
            with whole_file(path) as scratch, scratch.open("wb") as file:
                np.save(file, output)
        utterance.encoded = np.load(path, mmap_mode="r")
