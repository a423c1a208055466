"""Sound as users have it: any rate, any channels, any kind of object."""

import io

import numpy as np
import pytest
import soundfile

from pqm_plugin.corpus.recording import load_sound
from pqm_plugin.errors import PqmError


def tone(rate: int, seconds: float = 0.5) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate)


@pytest.mark.parametrize(("ending", "rate"), [("wav", 44100), ("flac", 8000), ("ogg", 48000), ("mp3", 22050)])
def test_files_of_any_rate_and_channels_become_mono_at_the_models_rate(tmp_path, ending, rate):
    path = tmp_path / f"a.{ending}"
    soundfile.write(path, np.stack([tone(rate), tone(rate)], axis=1), rate)

    found = load_sound(path, 16000)

    assert found.dtype == np.float32 and found.ndim == 1
    # MP3 pads to whole frames of 1152 samples.
    assert abs(len(found) - 8000) < 2 * 1152 * 16000 / rate
    peak = np.abs(np.fft.rfft(found)).argmax() * 16000 / len(found)
    assert abs(peak - 440) < 5
    assert np.array_equal(load_sound(io.BytesIO(path.read_bytes()), 16000), found)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([0, 16384, -32768], np.int16), [0, 0.5, -1]),
        (np.array([0, 128, 192], np.uint8), [-1, 0, 0.5]),
        (np.array([[0.5, 0.0], [1.0, 0.5]]), [0.25, 0.75]),
    ],
)
def test_arrays_of_integers_are_scaled_and_channels_averaged(values, expected):
    assert load_sound(values, 16000).tolist() == expected


def test_an_array_at_another_rate_is_resampled():
    assert len(load_sound(tone(8000), 16000, given_rate=8000)) == 8000


def test_a_file_named_like_a_command_is_a_file(tmp_path):
    with pytest.raises(PqmError, match="missing"):
        load_sound(f"touch {tmp_path}/ran |", 16000)

    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("sound", "why"),
    [
        (np.zeros((2, 16000)), "transpose"),
        (np.zeros(0), "shape"),
        (np.array(["a"]), "give numbers"),
        (np.array([np.nan]), "not numbers"),
        (io.StringIO("x"), "mode 'rb'"),
        (io.BytesIO(b"no audio"), "not audio"),
    ],
)
def test_what_is_no_sound_is_named(sound, why):
    with pytest.raises(PqmError, match=why):
        load_sound(sound, 16000)


def test_a_rate_that_would_make_a_large_array_of_a_small_file_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(1000), 1)

    with pytest.raises(PqmError, match="sample rate of 1 Hz"):
        load_sound(tmp_path / "a.wav", 16000)
