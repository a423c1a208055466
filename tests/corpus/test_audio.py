"""Audio that is whole is read to the bit; audio that is not is refused by name."""

import logging
import subprocess
import sys
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile

from pqm_plugin.corpus.audio import duration_s, is_silent, load_audio, probe
from pqm_plugin.corpus.samples import _say_resampled
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError


def spoken(path: Path | str, start_s: float | None = None, end_s: float | None = None) -> Utterance:
    return Utterance("utt", "spk", "HELLO", str(path), start_s, end_s)


def noise(n_samples: int = 16000) -> np.ndarray:
    return np.random.default_rng(7).integers(-9000, 9000, n_samples, dtype=np.int16)


def cut(path: Path, share: float = 0.5) -> Path:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    return path


@pytest.fixture(params=["flac", "wav", "aiff", "ogg", "mp3", "sph"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"a.{request.param}"
    soundfile.write(path, noise(), 16000, format={"sph": "NIST"}.get(request.param))
    return path


def test_flac_of_16_bits_gives_the_integers_over_32768(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", np.array([0, 16384, -32768, 1], dtype=np.int16), 16000)

    samples = load_audio(spoken(tmp_path / "a.flac"), 16000)

    assert samples.dtype == np.float32
    assert samples.tolist() == [0.0, 0.5, -1.0, 1 / 32768]


@pytest.mark.real
def test_real_flac_is_read_exactly_as_espnet_reads_it(shared: Path, tmp_path: Path) -> None:
    from espnet2.fileio.sound_scp import SoundScpReader

    path = sorted((shared / "data/LibriSpeech/dev-clean/84").glob("*/*.flac"))[0]
    (tmp_path / "wav.scp").write_text(f"utt {path}\n")

    samples = load_audio(spoken(path), 16000)

    rate, theirs = SoundScpReader(str(tmp_path / "wav.scp"), dtype="float32")["utt"]
    assert rate == 16000
    assert np.array_equal(samples, theirs)


def test_every_whole_format_passes_the_quick_look(file: Path) -> None:
    assert duration_s(spoken(file)) == 1.0
    assert len(load_audio(spoken(file), 16000)) == 16000


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_file_cut_off_in_the_middle_is_refused_by_name(file: Path, share: float) -> None:
    if share == 0.999 and file.suffix in (".wav", ".aiff", ".sph"):
        pytest.skip("what lacks less than a word is used with a warning, see test_containers.py")
    cut(file, share)

    for read in (lambda: load_audio(spoken(file), 16000), lambda: probe(spoken(file))):
        with pytest.raises(PqmError, match="cut off") as caught:
            read()
        assert str(file) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.real
def test_a_genuine_sphere_file_is_read_and_its_half_is_refused(shared: Path, tmp_path: Path) -> None:
    whole = shared / "data/an4_sample/wav/an4_clstk/fash/an251-fash-b.sph"
    half = tmp_path / "half.sph"
    half.write_bytes(whole.read_bytes()[:9000])

    assert probe(spoken(whole)).sample_rate == 16000
    with pytest.raises(PqmError, match="cut off"):
        load_audio(spoken(half), 16000)


def test_damage_in_the_middle_shows_when_the_file_is_decoded(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", noise(160000), 16000)
    whole = bytearray((tmp_path / "a.flac").read_bytes())
    whole[100000:110000] = bytes(10000)
    (tmp_path / "a.flac").write_bytes(whole)

    with pytest.raises(PqmError, match="cut off or damaged"):
        load_audio(spoken(tmp_path / "a.flac"), 16000)


def test_missing_empty_and_foreign_files_each_have_their_line(tmp_path: Path) -> None:
    (tmp_path / "empty.flac").touch()
    (tmp_path / "page.flac").write_text("<html>not found</html>" * 20)
    soundfile.write(tmp_path / "none.wav", np.zeros(0, dtype=np.int16), 16000)

    for name, words in (
        ("gone.flac", "is missing"),
        ("empty.flac", "is empty"),
        ("page.flac", "not audio"),
        ("none.wav", "no samples"),
    ):
        with pytest.raises(PqmError, match=words) as caught:
            load_audio(spoken(tmp_path / name), 16000)
        assert name in str(caught.value) and "utterance utt" in str(caught.value)


def test_samples_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([0.0, np.nan, 0.1]), 16000, subtype="FLOAT")

    with pytest.raises(PqmError, match="not numbers"):
        load_audio(spoken(tmp_path / "a.wav"), 16000)


def test_silence_is_told_from_speech() -> None:
    assert is_silent(np.full(100, 3 / 32768, dtype=np.float32))
    assert not is_silent(np.array([0.0, 0.01], dtype=np.float32))


def test_channels_are_averaged(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([[0.5, 0.25], [-0.5, 0.5]]), 16000)

    assert load_audio(spoken(tmp_path / "a.wav"), 16000).tolist() == [0.375, 0.0]


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_a_resampled_sine_stays_a_sine_and_says_so_once(
    tmp_path: Path, rate: int, caplog: pytest.LogCaptureFixture
) -> None:
    _say_resampled.cache_clear()
    soundfile.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate), rate, subtype="FLOAT")

    with caplog.at_level(logging.WARNING):
        samples = load_audio(spoken(tmp_path / "a.wav"), 16000)
        load_audio(spoken(tmp_path / "a.wav"), 16000)

    wanted = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    assert samples.dtype == np.float32 and samples.shape == (16000,)
    assert np.abs(samples - wanted)[200:-200].max() < 2e-3
    assert [record.message for record in caplog.records] == [f"audio at {rate} Hz is resampled to 16000 Hz"]


def test_resampling_keeps_what_the_new_rate_cannot_hold_out(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.sin(2 * np.pi * 12000 * np.arange(48000) / 48000), 48000, subtype="FLOAT")

    samples = load_audio(spoken(tmp_path / "a.wav"), 16000)

    assert np.abs(samples[200:-200]).max() < 5e-3


@pytest.mark.parametrize("extension", ["wav", "flac"])
def test_a_segment_is_the_same_samples_as_the_slice(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"a.{extension}"
    soundfile.write(path, noise(32000), 16000)

    part = load_audio(spoken(path, 0.5, 1.25), 16000)

    assert np.array_equal(part, load_audio(spoken(path), 16000)[8000:20000])
    assert duration_s(spoken(path, 0.5, 1.25)) == 0.75
    assert duration_s(spoken(path, 0.5)) == 1.5


def test_a_segment_may_overshoot_by_half_a_second_but_not_more(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(16000), 16000)

    assert duration_s(spoken(tmp_path / "a.wav", 0.5, 1.4)) == 0.5
    for start_s, end_s in ((0.5, 1.6), (1.0, 1.2), (0.5, 0.5)):
        with pytest.raises(PqmError, match="not inside the recording of 1.00 s"):
            load_audio(spoken(tmp_path / "a.wav", start_s, end_s), 16000)


def test_a_stream_that_does_not_say_how_long_it_is_is_refused_with_a_remedy(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", noise(100000), 16000)
    whole = bytearray((tmp_path / "a.flac").read_bytes())
    whole[21] &= 0xF0
    whole[22:26] = bytes(4)
    (tmp_path / "b.flac").write_bytes(whole)

    with pytest.raises(PqmError, match="does not say how long it is: decode it"):
        load_audio(spoken(tmp_path / "b.flac"), 16000)


def test_a_command_is_run_and_its_failure_named(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(), 16000)

    samples = load_audio(spoken(f"cat {tmp_path}/a.wav |"), 16000)

    assert np.array_equal(samples, load_audio(spoken(tmp_path / "a.wav"), 16000))
    with pytest.raises(PqmError, match="exit 3 .oh no.: run it by hand"):
        load_audio(spoken("echo oh no >&2; exit 3 |"), 16000)
    with pytest.raises(PqmError, match="cut off"):
        load_audio(spoken(f"head -c 9000 {tmp_path}/a.wav |"), 16000)


def test_an_archive_gives_the_samples_of_the_file(tmp_path: Path) -> None:
    kaldiio.save_ark(str(tmp_path / "a.ark"), {"utt": (16000, noise())}, scp=str(tmp_path / "a.scp"))
    place = (tmp_path / "a.scp").read_text().split()[1]
    soundfile.write(tmp_path / "a.wav", noise(), 16000)

    samples = load_audio(spoken(place), 16000)

    assert np.array_equal(samples, load_audio(spoken(tmp_path / "a.wav"), 16000))
    assert np.array_equal(load_audio(spoken(place, 0.25, 0.5), 16000), samples[4000:8000])
    cut(tmp_path / "a.ark")
    with pytest.raises(PqmError, match="cut off"):
        load_audio(spoken(place), 16000)


def test_an_archive_block_that_would_be_unpickled_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.ark").write_bytes(b"utt PKL" + b"cposix\nsystem\n(S'touch pwned'\ntR.")

    with pytest.raises(PqmError, match="is not audio"):
        load_audio(spoken(f"{tmp_path}/a.ark:4"), 16000)


def test_reading_at_the_right_rate_needs_no_resampling_library(tmp_path: Path) -> None:
    program = "import sys, pqm_plugin.corpus.audio; sys.exit('scipy.signal' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=False).returncode == 0
