"""Log-mel spectrograms in numpy, equal to those that the models were trained on."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_FLOOR = 1e-10
WINDOWS: Mapping[str | None, tuple[float, ...]] = {
    None: (1.0,),
    "hann": (0.5, 0.5),
    "hamming": (0.54, 0.46),
    "blackman": (0.42, 0.5, 0.08),
}
"""Cosine windows by the names that ESPnet has for them."""
_FRAMES_AT_ONCE = 512


@dataclass(frozen=True)
class WhisperMel:
    """Whisper's features: `n_mels` filters on windows of 400 samples, a hop of 160, at 16 kHz.

    Source: openai-whisper, `audio.log_mel_spectrogram`.
    """

    n_mels: int = 80
    rate: int = 16000
    n_fft: int = 400
    hop: int = 160
    window_samples: int = 480000

    def __call__(self, audio: np.ndarray) -> np.ndarray:
        """Log-mel spectrogram, float32 (T, D) at 100 frames a second; what follows it is as its last frame.

        Args:
            audio: float32 (n_samples,) in [-1, 1].
        """
        half = self.n_fft // 2
        # Frames that hear the clip, and one that hears silence alone.
        n_heard = (len(audio) + half) // self.hop + 2
        n_samples = max(len(audio), self.window_samples)
        n_frames = min(n_heard, n_samples // self.hop)
        padded = np.zeros(n_samples, np.float32)
        padded[: len(audio)] = audio
        padded = np.pad(padded, half, mode="reflect")[: (n_frames - 1) * self.hop + self.n_fft]
        frames = np.lib.stride_tricks.sliding_window_view(padded, self.n_fft)[:: self.hop]
        spectrum = np.fft.rfft(frames * _hann(self.n_fft), axis=1)
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        mel = power.astype(np.float32) @ _slaney_filters(self.n_mels, self.n_fft, self.rate)
        found = np.log10(np.maximum(mel, np.float32(_FLOOR)))
        found = np.maximum(found, found.max() - np.float32(8))
        return (found + np.float32(4)) / np.float32(4)


@functools.cache
def _hann(size: int) -> np.ndarray:
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)).astype(np.float32)


@functools.cache
def _slaney_filters(n_mels: int, n_fft: int, rate: int) -> np.ndarray:
    """Triangles of equal area up to 8 kHz, evenly spaced on Slaney's scale, float32 (n_fft // 2 + 1, n_mels)."""
    edges = _slaney_hertz(np.linspace(_slaney_mel(0.0), _slaney_mel(8000.0), n_mels + 2))
    bins = np.linspace(0, rate // 2, n_fft // 2 + 1)
    widths = np.diff(edges)
    slopes = edges[None] - bins[:, None]
    rising, falling = -slopes[:, :-2] / widths[:-1], slopes[:, 2:] / widths[1:]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return (triangles * (2 / (edges[2:] - edges[:-2]))).astype(np.float32)


def _slaney_mel(hertz: float) -> float:
    return 3 * hertz / 200 if hertz < 1000 else 15 + float(np.log(hertz / 1000)) * 27 / float(np.log(6.4))


def _slaney_hertz(mels: np.ndarray) -> np.ndarray:
    return np.where(mels < 15, 200 * mels / 3, 1000 * np.exp(np.log(6.4) / 27 * (mels - 15)))


@dataclass(frozen=True)
class EspnetMel:
    """Log-mel filter banks of ESPnet's `default` frontend, normalised.

    `filters` float32 (n_fft // 2 + 1, D); `mean` and `deviation` float32 (D,) of the training speech, None for those
    of the utterance, which are heeded where `centred` and `scaled` say so; `scale` is of the spectrum.

    Source: ESPnet 202611, `DefaultFrontend`, `UtteranceMVN`, `GlobalMVN`.
    """

    filters: np.ndarray
    n_fft: int
    win_length: int
    hop: int
    window: str | None
    is_padded: bool
    scale: float
    centred: bool
    scaled: bool
    epsilon: float
    mean: np.ndarray | None = None
    deviation: np.ndarray | None = None

    def __call__(self, audio: np.ndarray) -> np.ndarray:
        """Float32 (T, D) of audio float32 (n_samples,); no frames where it is shorter than a window."""
        half = self.n_fft // 2
        padded = np.pad(audio, half, mode="reflect") if self.is_padded and len(audio) > 1 else audio
        if len(padded) < self.n_fft:
            return np.zeros((0, self.filters.shape[1]), np.float32)
        frames = np.lib.stride_tricks.sliding_window_view(padded, self.n_fft)[:: self.hop]
        found = np.empty((len(frames), self.filters.shape[1]), np.float32)
        for first in range(0, len(frames), _FRAMES_AT_ONCE):
            rows = slice(first, first + _FRAMES_AT_ONCE)
            spectrum = np.fft.rfft(frames[rows] * self._taps(), axis=1)
            power = (np.square(spectrum.real) + np.square(spectrum.imag)) * np.float32(self.scale**2)
            found[rows] = np.log(np.maximum(power.astype(np.float32) @ self.filters, np.float32(_FLOOR)))
        return self._normalised(found)

    def _taps(self) -> np.ndarray:
        """The window in the middle of `n_fft` samples, float32."""
        angles = 2 * np.pi * np.arange(self.win_length) / self.win_length
        terms = enumerate(WINDOWS[self.window])
        taps = sum((-1) ** order * weight * np.cos(order * angles) for order, weight in terms)
        left = (self.n_fft - self.win_length) // 2
        return np.pad(taps, (left, self.n_fft - self.win_length - left)).astype(np.float32)

    def _normalised(self, x: np.ndarray) -> np.ndarray:
        if self.mean is not None and self.deviation is not None:
            x = x - self.mean if self.centred else x
            return x / self.deviation if self.scaled else x
        centred = x - x.mean(0, dtype=np.float32)
        if self.scaled:
            deviation = np.sqrt(np.square(centred).mean(0))
            return (centred if self.centred else x) / np.maximum(deviation, np.float32(self.epsilon))
        return centred if self.centred else x
