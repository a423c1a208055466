"""Find silence: to cut long audio there, and to trim the times of words."""

from collections.abc import Iterable, Iterator

import numpy as np

_STEP_S = 0.02
_PAUSE_S = 0.3
_LOUD = 10  # steps: the loudness of speech is that of its tenth loudest, so that a click is none
_FLOOR_SHARE = 0.1  # the loudness of the room is that below which this share of the steps lies
_DEEPEST_DB = 60.0  # digital silence counts as a room so far below speech
_SHALLOWEST_DB = 10.0  # with less between them, speech cannot be told from the room
_THRESHOLD = 0.25  # of the way from the room up to speech
_SHORTEST_STEPS = 3  # speech is at least so long; a shorter sound is a click
_MARGIN_S = 0.1  # soft consonants before and after what is loud
_SEARCHED = 0.5  # the share of the longest piece, from its end, in which a pause is looked for


def cut_at_silence(audio: np.ndarray, sample_rate: int, longest_s: float) -> list[np.ndarray]:
    """Pieces of at most `longest_s` seconds that put together are `audio`, float32 (n_samples,).

    Each cut is in the middle of the quietest 0.3 seconds of the second half of what fits.
    """
    return list(cut_blocks_at_silence([audio], sample_rate, longest_s))


def cut_blocks_at_silence(blocks: Iterable[np.ndarray], sample_rate: int, longest_s: float) -> Iterator[np.ndarray]:
    """The pieces of `cut_at_silence` for audio that comes in blocks (n_samples,), each as soon as it is known."""
    longest = int(longest_s * sample_rate)
    rest: np.ndarray = np.zeros(0, np.float32)
    for block in blocks:
        rest = np.concatenate([rest, block]) if len(rest) else block
        while len(rest) > longest:
            first = int(longest * (1 - _SEARCHED))
            cut = first + _quietest(rest[first:longest], sample_rate)
            yield rest[:cut]
            rest = rest[cut:]
    yield rest


def _quietest(audio: np.ndarray, sample_rate: int) -> int:
    """The sample in the middle of the stretch of least energy."""
    step = max(1, int(_STEP_S * sample_rate))
    n_steps = len(audio) // step
    width = min(n_steps, round(_PAUSE_S / _STEP_S))
    if width < 1:
        return max(1, len(audio))
    energy = np.square(audio[: n_steps * step], dtype=np.float64).reshape(n_steps, step).sum(axis=1)
    windows = np.convolve(energy, np.ones(width), mode="valid")
    return max(1, int((int(windows.argmin()) + width / 2) * step))


def speech_bounds(audio: np.ndarray, sample_rate: int) -> tuple[int, int]:
    """First sample of speech and the one after its last, in audio (n_samples,) in which somebody speaks.

    Speech is what is louder than the room, both as they are in this very audio, with a tenth of a second around it.
    Where the two cannot be told apart, it is all of the audio.
    """
    step = max(1, int(_STEP_S * sample_rate))
    n_steps = len(audio) // step
    if n_steps <= _LOUD:
        return 0, len(audio)
    power = np.square(audio[: n_steps * step], dtype=np.float64).reshape(n_steps, step).mean(axis=1)
    loud = float(np.sort(power)[-_LOUD])
    decibels = 10 * np.log10(np.maximum(power / loud, 10 ** (-_DEEPEST_DB / 10))) if loud > 0 else np.zeros(n_steps)
    room = float(np.quantile(decibels, _FLOOR_SHARE))
    if room > -_SHALLOWEST_DB:
        return 0, len(audio)
    above = decibels > room * (1 - _THRESHOLD)
    runs = np.convolve(above, np.ones(_SHORTEST_STEPS), mode="valid") == _SHORTEST_STEPS
    if not runs.any():
        return 0, len(audio)
    places, margin = np.flatnonzero(runs), int(_MARGIN_S * sample_rate)
    first, last = int(places[0]) * step - margin, (int(places[-1]) + _SHORTEST_STEPS) * step + margin
    return max(0, first), len(audio) if last > n_steps * step else last
