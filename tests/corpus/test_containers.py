"""What phones, browsers and `cat` leave behind is heard whole, and what is odd about it is said."""

import io
import logging
import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from pqm_plugin.corpus.audio import AudioInfo, load_audio, plain_file, probe
from pqm_plugin.corpus.recording import load_sound
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.corpus.validate import validate
from pqm_plugin.errors import PqmError
from tests.corpus.sounds import FOREIGN, KNOWN, RATE, made, noise, shorten
from tests.faults import tries

ROOT = Path(__file__).parents[2]


def spoken(path: Path | str, start_s: float | None = None, end_s: float | None = None) -> Utterance:
    return Utterance("utt", "spk", "HELLO", str(path), start_s, end_s)


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def heard(path: Path) -> float:
    """Seconds that are heard of a file, the same wherever it enters."""
    info = probe(spoken(path))
    whole = load_sound(path, info.sample_rate)
    assert info.n_samples == len(load_audio(spoken(path), info.sample_rate)) == len(whole)
    assert probe(spoken(path), decode=True).n_samples == info.n_samples
    assert np.array_equal(load_sound(io.BytesIO(path.read_bytes()), info.sample_rate), whole)
    return info.duration_s


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_phones_and_browsers_write_is_heard_whatever_its_name(tmp_path: Path, kind: str) -> None:
    samples = noise(1.0, 48000 if kind == "webm" else 44100 if kind == "flv" else RATE)
    path = written(tmp_path / "a.wav", made(kind, samples))

    assert heard(path) == pytest.approx(1.0, abs=0.15)


def test_what_loses_nothing_is_heard_to_the_bit_and_by_segments(tmp_path: Path) -> None:
    samples = np.round(noise(1.0) * 32768) / 32768
    path = written(tmp_path / "a.m4a", made("m4a-alac", samples))

    whole = load_audio(spoken(path), RATE)

    assert np.array_equal(whole, samples.astype(np.float32))
    assert np.array_equal(load_audio(spoken(path, 0.25, 0.5), RATE), whole[4000:8000])


def test_a_sphere_file_packed_by_shorten_is_read_and_a_cut_one_is_refused_with_the_tool(tmp_path: Path) -> None:
    samples = np.round(noise(256 * 40 / RATE) * 32768).astype(int)
    data = shorten(samples)

    assert np.array_equal(load_audio(spoken(written(tmp_path / "a.sph", data)), RATE) * 32768, samples)
    with pytest.raises(PqmError, match="cut off"):
        load_audio(spoken(written(tmp_path / "b.sph", data[: len(data) // 2])), RATE)
    with pytest.raises(PqmError, match="sph2pipe"):
        load_audio(spoken(written(tmp_path / "c.sph", data[:1024])), RATE)


@pytest.mark.parametrize("kind", [*KNOWN, *FOREIGN])
def test_joined_recordings_are_heard_to_the_last_one(tmp_path: Path, kind: str) -> None:
    parts = [made(kind, noise(seconds, seed=seed)) for seed, seconds in enumerate((0.6, 1.0, 0.4))]
    alone = [heard(written(tmp_path / f"{place}.bin", part)) for place, part in enumerate(parts)]

    joined = heard(written(tmp_path / "all.bin", b"".join(parts)))

    # A frame of a lossy codec is heard twice or not at all where a stream is not begun anew.
    assert joined == pytest.approx(sum(alone), abs=0.07 if kind in ("aac", "ts") else 1e-3)


def test_the_samples_of_a_joined_file_are_those_of_its_parts_at_the_first_ones_rate(tmp_path: Path) -> None:
    one, two = made("ogg", noise(0.5)), made("ogg", noise(0.5, 8000), 8000)
    path = written(tmp_path / "a.ogg", one + two)

    found = load_audio(spoken(path), RATE)

    expected = [load_sound(io.BytesIO(part), RATE) for part in (one, two)]
    assert np.array_equal(found, np.concatenate(expected))
    assert np.array_equal(load_audio(spoken(path, 0.25, 0.75), RATE), found[4000:12000])


@pytest.mark.parametrize("tag", [b"", b"TAG" + bytes(125), b"ID3\4\0\0\0\0\1\0" + bytes(128)])
def test_an_mp3_that_goes_on_behind_what_its_header_counts_is_heard(tmp_path: Path, tag: bytes) -> None:
    one, two = made("mp3", noise(1.0)), made("mp3", noise(0.5))
    # Without its frame of `Xing`, a second part has no mark of its own.
    plain = two[288:]

    assert heard(written(tmp_path / "a.mp3", one + tag + plain)) == pytest.approx(1.5, abs=0.15)
    assert heard(written(tmp_path / "b.mp3", one + tag + two)) == pytest.approx(1.5, abs=0.001)


def test_an_mp3_of_varying_bit_rate_that_does_not_tell_its_length_is_heard_whole(tmp_path: Path) -> None:
    samples = noise(20.0)
    samples[:RATE] *= 0.001
    data = made("mp3", samples)

    assert heard(written(tmp_path / "a.mp3", data[288:])) == pytest.approx(20.0, abs=0.15)


def plain_mp3(seconds: float, rate: int = RATE, n_channels: int = 1) -> bytes:
    """An MP3 of one bit rate that does not tell its length, as FFmpeg's `-write_xing 0` and LAME's `-t` leave it."""
    layout, file = ("mono", "stereo")[n_channels - 1], io.BytesIO()
    values = np.repeat(noise(seconds, rate)[None], n_channels, axis=0).astype(np.float32)
    with av.open(file, "w", format="mp3", options={"write_xing": "0"}) as container:
        stream = container.add_stream("libmp3lame", rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(values), "fltp", layout)
        frame.sample_rate = rate
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return file.getvalue()


def test_an_mp3_of_one_bit_rate_that_does_not_tell_its_length_is_heard_whole(tmp_path: Path) -> None:
    data = plain_mp3(1.0)

    assert heard(written(tmp_path / "a.mp3", data)) == pytest.approx(1.0, abs=0.15)
    assert heard(written(tmp_path / "b.mp3", data + b"TAG" + bytes(125))) == pytest.approx(1.0, abs=0.15)


def test_mp3s_whose_headers_count_frames_alone_or_nothing_are_heard_to_the_last_part(tmp_path: Path) -> None:
    one, two = bytearray(made("mp3", noise(1.0))), made("mp3", noise(0.5))
    place = next(one.find(name) for name in (b"Xing", b"Info") if name in one)
    n_frames = one[place + 8 : place + 12]
    for flags, told in ((1, n_frames), (0, b"")):
        one[place + 7 : place + 120] = bytes([flags]) + told + bytes(112 - len(told))

        assert heard(written(tmp_path / "a.mp3", bytes(one))) == pytest.approx(1.0, abs=0.15)
        assert heard(written(tmp_path / "b.mp3", one + two[288:])) == pytest.approx(1.5, abs=0.25)
        assert heard(written(tmp_path / "c.mp3", one + two)) == pytest.approx(1.5, abs=0.15)


def test_mp3s_of_other_rates_and_channels_without_headers_are_heard_to_the_last_part(tmp_path: Path) -> None:
    parts = [plain_mp3(1.0, *kind) for kind in ((16000, 1), (44100, 2), (16000, 2))]

    assert heard(written(tmp_path / "a.mp3", b"".join(parts))) == pytest.approx(3.0, abs=0.4)


def test_a_wav_of_a_codec_that_cannot_be_sought_in_is_heard_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(1.0), RATE, "GSM610")

    assert heard(path) == pytest.approx(1.0, abs=0.15)


def test_an_mp3_within_a_wav_is_heard_whole(tmp_path: Path) -> None:
    sound = made("mp3", noise(1.0))[288:]
    form = struct.pack("<HHIIHHHHIHHH", 0x55, 1, RATE, len(sound), 1, 0, 12, 1, 2, 576, 1, 1393)
    chunks = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(sound)) + sound
    path = written(tmp_path / "a.wav", b"RIFF" + struct.pack("<I", len(chunks)) + chunks)

    assert heard(path) == pytest.approx(1.0, abs=0.15)


def rf64(n_bytes: int) -> bytes:
    """One second as RF64, whose header promises `n_bytes` of samples."""
    plain = made("wav", noise(1.0))
    sizes = b"ds64" + struct.pack("<IQQQI", 28, 0, n_bytes, 0, 0)
    return b"RF64" + b"\xff" * 4 + b"WAVE" + sizes + with_size(plain, 0xFFFFFFFF)[12:]


def test_an_rf64_file_is_heard_whole_or_refused_where_much_is_missing(tmp_path: Path) -> None:
    assert heard(written(tmp_path / "a.wav", rf64(32000))) == 1.0
    assert heard(written(tmp_path / "b.wav", rf64(0))) == 1.0
    with pytest.raises(PqmError, match="cut off"):
        load_sound(written(tmp_path / "c.wav", rf64(64000)), RATE)


def test_bytes_behind_the_samples_that_a_wav_counts_are_said_and_chunks_are_not(tmp_path: Path, caplog) -> None:
    whole = made("wav", noise(1.0))
    tag = b"LIST" + struct.pack("<I", 8000) + bytes(8000)
    heard(written(tmp_path / "tagged.wav", whole + tag))
    assert not caplog.text

    assert heard(written(tmp_path / "short.wav", with_size(whole, 16000))) == 0.5
    assert "short.wav has 16000 bytes behind the samples that its header counts" in caplog.text


def test_a_second_stream_of_sound_is_said_and_the_first_one_heard(tmp_path: Path, caplog) -> None:
    path = tmp_path / "two.mka"
    with av.open(str(path), "w", format="matroska") as file:
        for stream, seconds in [(file.add_stream("pcm_s16le", rate=RATE, layout="mono"), s) for s in (1.0, 0.5)]:
            frame = av.AudioFrame.from_ndarray(np.int16(noise(seconds) * 32767)[None], "s16", "mono")
            frame.sample_rate = RATE
            file.mux(stream.encode(frame))

    assert heard(path) == pytest.approx(1.0, abs=0.01)
    assert "two.mka has 2 audio streams: the first one is read" in caplog.text


def test_floats_on_the_scale_of_integers_are_scaled_and_that_is_said_once(tmp_path: Path, caplog) -> None:
    whole = np.round(noise(1.0) * 32768)
    whole[:8000] = np.round(whole[:8000] / 3000)  # a segment of it would look like floats
    path = tmp_path / "a.wav"
    soundfile.write(path, whole, RATE, "FLOAT")

    for found in (load_audio(spoken(path), RATE), load_sound(path, RATE), load_sound(whole, RATE)):
        assert np.array_equal(found, (whole / 32768).astype(np.float32))
    assert np.array_equal(load_audio(spoken(path, 0.0, 0.5), RATE), (whole[:8000] / 32768).astype(np.float32))
    assert caplog.text.count(f"{path} holds floats on the scale of 16-bit integers") == 1
    assert plain_file(spoken(path), RATE, tmp_path / "copies") != path


@pytest.mark.parametrize("kind", [np.int32, np.int64, list])
def test_16_bit_integers_in_a_wider_type_are_scaled_as_such_and_that_is_said(kind, caplog) -> None:
    values = np.array([8192, -16384, 0], np.int16)
    given = values.tolist() if kind is list else values.astype(kind)

    assert load_sound(given, RATE).tolist() == [0.25, -0.5, 0.0]
    assert "holds 16-bit integers as int" in caplog.text
    assert load_sound(values.astype(np.int32) * 65536, RATE).tolist() == [0.25, -0.5, 0.0]


def test_a_pair_of_rate_and_samples_is_refused_in_one_line() -> None:
    with pytest.raises(PqmError, match="audio of type tuple is not an array"):
        load_sound((RATE, noise(0.1)), RATE)  # type: ignore[arg-type]


@pytest.mark.parametrize(("factor", "divisor"), [(1.7, 1), (2.0**23, 2.0**23), (2.0**31, 2.0**31)])
def test_a_slight_overshoot_stays_and_larger_integers_have_their_own_scale(factor: float, divisor: float) -> None:
    samples = np.array([0.25, -0.999, 0.3])

    assert load_sound(samples * factor, RATE) == pytest.approx(samples * factor / divisor, rel=1e-6)


def with_size(data: bytes, size: int) -> bytes:
    place = data.index(b"data") + 4
    return data[:place] + struct.pack("<I", size) + data[place + 4 :]


@pytest.mark.parametrize("extra", [None, 8, 44, 3000, 0xFFFFFFFF - 32000])
def test_a_wav_whose_header_says_a_wrong_length_is_heard_with_a_warning(tmp_path: Path, extra, caplog) -> None:
    whole = made("wav", noise(1.0))
    path = written(tmp_path / "a.wav", with_size(whole, 0 if extra is None else 32000 + extra))

    assert heard(path) == 1.0
    assert caplog.text.count(f"{path} ") == 1 and "is read" in caplog.text
    assert len(probe(spoken(path)).remarks) == 1


def test_much_that_is_missing_is_refused_and_a_wav_without_samples_stays_empty(tmp_path: Path) -> None:
    whole = made("wav", noise(1.0))

    with pytest.raises(PqmError, match="cut off"):
        probe(spoken(written(tmp_path / "a.wav", with_size(whole, 36000))))
    empty = with_size(whole, 0)[:44] + b"LIST" + struct.pack("<I", 4) + b"INFO"
    with pytest.raises(PqmError, match="no samples"):
        probe(spoken(written(tmp_path / "b.wav", empty)))


@pytest.mark.parametrize("kind", ["ogg", "opus"])
def test_an_ogg_file_without_a_mark_of_its_end_is_heard_with_a_warning(tmp_path: Path, kind: str, caplog) -> None:
    data = bytearray(made(kind, noise(3.0)))
    last = data.rindex(b"OggS")
    data[last + 5] &= ~4
    data[last + 22 : last + 26] = bytes(4)
    data[last + 22 : last + 26] = struct.pack("<I", ogg_sum(data[last:]))
    path = written(tmp_path / "a.ogg", bytes(data))

    assert heard(path) == pytest.approx(3.0, abs=0.01)
    assert "has no mark of its end" in caplog.text


def ogg_sum(page: bytes) -> int:
    """The check sum of an Ogg page whose own is zero."""
    found = 0
    for byte in page:
        found ^= byte << 24
        for _ in range(8):
            found = (found << 1 ^ (0x04C11DB7 if found >> 31 else 0)) & 0xFFFFFFFF
    return found


def test_what_is_odd_about_a_recording_is_among_the_warnings_of_validate(tmp_path: Path) -> None:
    written(tmp_path / "a.wav", with_size(made("wav", noise(1.0)), 0))
    for name, line in (("wav.scp", f"a {tmp_path}/a.wav"), ("text", "a HI"), ("utt2spk", "a a"), ("spk2utt", "a a")):
        (tmp_path / name).write_text(line + "\n")

    found = [problem for problem in validate(tmp_path) if "0 bytes of samples" in str(problem)]

    assert len(found) == 1


def test_a_container_that_names_other_files_opens_none_of_them(tmp_path: Path) -> None:
    written(tmp_path / "secret.wav", made("wav", noise(1.0)))
    lists = {
        "a.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.wav\n#EXT-X-ENDLIST\n",
        "b.txt": "ffconcat version 1.0\nfile secret.wav\n",
        "c.sdp": "v=0\nm=audio 5004 RTP/AVP 0\n",
    }
    for name, text in lists.items():
        with pytest.raises(PqmError, match="is not audio"):
            load_sound(written(tmp_path / name, text.encode()), RATE)


def test_what_comes_through_a_pipe_is_heard(tmp_path: Path) -> None:
    path = written(tmp_path / "a.m4a", made("m4a", noise(1.0)))
    os.mkfifo(tmp_path / "fifo")
    program = (
        "from pqm_plugin.corpus.recording import load_sound; import sys; print(len(load_sound(sys.argv[1], 16000)))"
    )

    for name in ("-", "/dev/stdin", str(tmp_path / "fifo")):
        writer = subprocess.Popen(["cp", path, name]) if "fifo" in name else None
        done = subprocess.run(
            f"cat {path} | {sys.executable} -c '{program}' {name}", shell=True, cwd=ROOT, capture_output=True, text=True
        )
        if writer:
            writer.wait()
        assert done.stdout == "16000\n", done.stderr


def broken(data: bytes, other: bytes, chance: random.Random) -> bytes:
    """A valid file cut, joined, padded, or with some bytes changed."""
    made_ = bytearray(data)
    for _ in range(chance.choice((1, 1, 2))):
        kind = chance.randrange(5)
        at = chance.randrange(len(made_) or 1)
        if kind == 0:
            del made_[at:]
        elif kind == 1:
            made_ += other[: chance.choice((len(other), at))]
        elif kind == 2:
            made_ += bytes(chance.choice((1, 100, 5000)))
        elif kind == 3:
            made_[at : at + 4] = chance.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f"))
        else:
            near = min(len(made_), 200)
            if near:
                made_[chance.randrange(near)] ^= 1 << chance.randrange(8)
    return bytes(made_)


@pytest.mark.parametrize("kind", [*KNOWN, *FOREIGN, "shorten"])
def test_broken_files_of_every_kind_are_heard_or_refused_in_one_line(tmp_path: Path, kind: str, caplog) -> None:
    caplog.set_level(logging.CRITICAL)
    if kind == "shorten":
        data = other = shorten(np.zeros(2560, int))
    else:
        data, other = made(kind, noise(0.5)), made(kind, noise(0.3, seed=1))

    for seed in tries(6):
        path = written(tmp_path / f"{seed}.bin", broken(data, other, random.Random(seed)))
        lengths = set()
        for read in (lambda p=path: probe(spoken(p), decode=True), lambda p=path: load_sound(p, RATE)):
            try:
                found = read()
            except PqmError as error:
                assert "\n" not in str(error), seed
                lengths.add(None)
            else:
                lengths.add(round(found.duration_s if isinstance(found, AudioInfo) else len(found) / RATE, 3))
        assert len(lengths) == 1 or None in lengths, (kind, seed, lengths)
