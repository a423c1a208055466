"""Log-mel spectrograms in numpy, equal to those that the models were trained on."""

import functools
from dataclasses import dataclass

import numpy as np

_FLOOR = 1e-10


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
