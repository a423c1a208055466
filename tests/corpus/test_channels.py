"""Two people on two channels are told from one person on both, and each can be heard alone."""

import dataclasses
import io
import logging
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile

from pqm_plugin.corpus.audio import load_audio, probe
from pqm_plugin.corpus.kaldi import read_data_folder, write_data_folder
from pqm_plugin.corpus.readers.own import read
from pqm_plugin.corpus.recording import load_sound
from pqm_plugin.corpus.samples import CANCELLED, TWO_PEOPLE, trouble_of
from pqm_plugin.corpus.utterance import Utterance, digest
from pqm_plugin.corpus.validate import validate
from pqm_plugin.errors import PqmError
from pqm_plugin.stages.data import prepare_data

RATE = 16000


def voice(seed: int, seconds: float = 8.0) -> np.ndarray:
    """Noise in syllables of 0.1 to 0.3 s with pauses between words, as speech has them, float32 (n_samples,)."""
    chance = np.random.default_rng(seed)
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < seconds * RATE:
        n_samples = int(chance.uniform(0.1, 0.3) * RATE)
        parts.append(chance.normal(0, chance.uniform(0.03, 0.15), n_samples) * np.hanning(n_samples))
        if chance.random() < 0.3:
            parts.append(np.zeros(int(chance.uniform(0.2, 0.6) * RATE)))
    return np.concatenate(parts)[: int(seconds * RATE)].astype(np.float32)


def stereo(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.stack([one, other], axis=1).astype(np.float32)


def hiss(level: float, n_samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, level, n_samples)


def turns(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return stereo(np.concatenate([one, 0 * other]), np.concatenate([0 * one, other]))


TWO = {
    "one after the other": turns,
    "both at once": stereo,
    "one much softer": lambda one, other: stereo(one, 0.1 * other),
    "with crosstalk": lambda one, other: stereo(one + 0.1 * other, other + 0.1 * one),
    "with hiss": lambda one, other: turns(one, other) + stereo(hiss(1e-3, 2 * len(one)), hiss(1e-3, 2 * len(one), 1)),
}
ONE = {
    "the same": lambda one, _: stereo(one, one),
    "one softer": lambda one, _: stereo(one, 0.05 * one),
    "delayed by 20 ms": lambda one, _: stereo(one, np.roll(one, 320)),
    "delayed by 100 ms": lambda one, _: stereo(one, np.roll(one, 1600)),
    "one silent": lambda one, _: stereo(one, 0 * one),
    "one with hiss alone": lambda one, _: stereo(one, hiss(2e-2, len(one))),
    "the same with noise": lambda one, _: stereo(one + hiss(2e-3, len(one)), one + hiss(8e-3, len(one), 1)),
    "two people in one room": lambda one, other: stereo(one + 0.6 * other, other + 0.6 * one),
    "music on both": lambda one, other: stereo(one + 0.7 * np.abs(other), 0.7 * one + np.abs(other)),
    "silence": lambda one, _: stereo(0 * one, 0 * one),
    "a click": lambda one, _: stereo(one, np.eye(1, len(one), 99)[0]),
    "too short to tell": lambda one, other: stereo(one[:8000], other[:8000]),
}


@pytest.mark.parametrize("kind", TWO)
@pytest.mark.parametrize("seed", range(6))
def test_two_people_on_two_channels_are_told(kind: str, seed: int) -> None:
    assert trouble_of([(TWO[kind](voice(seed), voice(seed + 100)), RATE)]) == TWO_PEOPLE


@pytest.mark.parametrize("kind", ONE)
@pytest.mark.parametrize("seed", range(6))
def test_one_person_on_both_channels_is_none_for_a_warning(kind: str, seed: int) -> None:
    assert trouble_of([(ONE[kind](voice(seed), voice(seed + 100)), RATE)]) == ""


def test_channels_that_cancel_each_other_out_are_told() -> None:
    assert trouble_of([(stereo(voice(0), -voice(0)), RATE)]) == CANCELLED


def test_a_second_person_who_comes_in_a_later_block_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    soundfile.write(tmp_path / "a.wav", turns(voice(0, 70.0), voice(1, 70.0)), RATE)

    load_sound(tmp_path / "a.wav", RATE)

    assert [message for message in caplog.messages if TWO_PEOPLE in message and "--channel 0" in message]
    assert len([message for message in caplog.messages if TWO_PEOPLE in message]) == 1


@pytest.mark.real
@pytest.mark.slow
def test_real_readers_on_two_channels_are_told_and_one_reader_is_not(shared: Path) -> None:
    by_reader = sorted(folder for folder in (shared / "data/LibriSpeech").glob("*/*") if folder.is_dir())
    paths = [sorted(folder.rglob("*.flac"))[:2] for folder in by_reader]
    found = [[soundfile.read(path, dtype="float32")[0] for path in pair] for pair in paths if len(pair) == 2][:20]
    two = at_once = 0
    for (one, again), (other, _) in zip(found, found[1:], strict=False):
        length = min(len(one), len(other))
        two += trouble_of([(turns(one, other), RATE)]) == TWO_PEOPLE
        at_once += trouble_of([(stereo(one[:length], other[:length]), RATE)]) == TWO_PEOPLE
        for same in (stereo(one, one), stereo(again, 0.2 * np.roll(again, 400)), stereo(one, 0 * one)):
            assert trouble_of([(same, RATE)]) == ""

    assert two == len(found) - 1
    assert at_once >= 0.85 * (len(found) - 1)


@pytest.mark.parametrize("form", ["wav", "flac", "ogg", "mp3", "aiff", "sph", "au", "caf", "w64"])
def test_fuzz_a_channel_of_every_format_is_the_one_and_their_average_is_said(
    form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for seed in range(3):
        path = tmp_path / f"{seed}.{form}"
        kind = list(TWO)[seed]
        samples = TWO[kind](voice(seed), voice(seed + 50))
        soundfile.write(path, samples, RATE, format={"sph": "NIST"}.get(form))
        caplog.clear()
        whole, heard = load_sound(path, RATE), [load_sound(path, RATE, channel=place) for place in (0, 1)]

        assert len([message for message in caplog.messages if TWO_PEOPLE in message]) == 1
        assert np.allclose(whole, (heard[0] + heard[1]) / 2, atol=1e-6)
        for place in (0, 1):
            alike = np.corrcoef(heard[place][: len(samples)], samples[: len(heard[place]), place])[0, 1]
            assert alike > 0.5, (form, kind, place)
            by_name = load_audio(Utterance("u", "s", "X", str(path), channel=place), RATE)
            assert np.allclose(by_name, heard[place], atol=1e-5)
        assert np.allclose(load_sound(io.BytesIO(path.read_bytes()), RATE, channel=1), heard[1], atol=1e-5)
        with pytest.raises(PqmError, match=r"no channel 2: it has 2 channels, 0 to 1"):
            load_sound(path, RATE, channel=2)


def test_an_array_and_a_recording_of_one_channel_have_their_channel_0_alone() -> None:
    samples = stereo(voice(0), voice(1))

    assert np.array_equal(load_sound(samples, RATE, channel=1), samples[:, 1])
    assert np.array_equal(load_sound(samples[:, 0], RATE, channel=0), samples[:, 0])
    for wrong in (1, -1):
        with pytest.raises(PqmError, match="it has one channel, 0"):
            load_sound(samples[:, 0], RATE, channel=wrong)


def test_an_utterance_without_a_channel_is_written_as_ever() -> None:
    old = Utterance("a", "b", "C", "/d.wav", 0.5, None, "r", "book", "place")

    assert repr(old) == (
        "Utterance(utterance='a', speaker='b', text='C', audio='/d.wav', start_s=0.5, end_s=None, recording='r')"
    )
    assert digest([old]) != digest([dataclasses.replace(old, channel=0)])
    assert repr(dataclasses.replace(old, channel=1)).endswith("recording='r', channel=1)")


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    """A Kaldi folder of a call of two people, a channel each, in Kaldi's fifth field."""
    folder = tmp_path / "call"
    folder.mkdir()
    soundfile.write(tmp_path / "call.wav", stereo(voice(0, 12.0), voice(1, 12.0)), RATE)
    names = [
        (f"{speaker}-{number}", speaker, number, place) for place, speaker in enumerate("ab") for number in range(6)
    ]
    (folder / "wav.scp").write_text(f"call {tmp_path}/call.wav\n")
    (folder / "segments").write_text("".join(f"{u} call {2 * n} {2 * n + 2} {c}\n" for u, _, n, c in names))
    (folder / "text").write_text("".join(f"{u} WORD\n" for u, *_ in names))
    (folder / "utt2spk").write_text("".join(f"{u} {s}\n" for u, s, *_ in names))
    (folder / "spk2utt").write_text("".join(f"{s} {' '.join(u for u, t, *_ in names if t == s)}\n" for s in "ab"))
    return folder


def test_kaldis_fifth_field_is_read_heard_and_written_again(
    talk: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepare_data(talk, "own", tmp_path / "data", "own", [])

    first, second = (
        next(each for each in read_data_folder(tmp_path / "data/own") if each.utterance == name)
        for name in ("a-1", "b-1")
    )
    assert (first.channel, second.channel) == (0, 1)
    samples = soundfile.read(tmp_path / "call.wav", dtype="float32")[0][2 * RATE : 4 * RATE]
    assert np.array_equal(load_audio(first, RATE), samples[:, 0])
    assert np.array_equal(load_audio(second, RATE), samples[:, 1])
    assert "a-1 call 2.0 4.0 0\n" in (tmp_path / "data/own/segments").read_text()
    assert TWO_PEOPLE not in caplog.text and validate(talk) == validate(tmp_path / "data/own") == []


def test_a_call_without_the_field_is_warned_of_in_stage_1_and_validate_and_an_option_chooses(
    talk: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = (talk / "segments").read_text().splitlines()
    (talk / "segments").write_text("".join(f"{line.rsplit(' ', 1)[0]}\n" for line in lines))

    prepare_data(talk, "own", tmp_path / "data", "own", [])

    [said] = [message for message in caplog.messages if TWO_PEOPLE in message]
    assert "call.wav" in said and "fifth field" in said
    [problem] = validate(talk)
    assert (problem.severity, problem.file.name, problem.line) == ("warning", "wav.scp", 1)
    assert TWO_PEOPLE in problem.what and "fifth field" in problem.remedy

    caplog.clear()
    prepare_data(talk, "own", tmp_path / "one", "own", [], channel=1)

    assert TWO_PEOPLE not in caplog.text
    assert {each.channel for each in read_data_folder(tmp_path / "one/own")} == {1}


def test_a_channel_that_a_recording_lacks_costs_its_line(talk: Path, tmp_path: Path) -> None:
    text = (talk / "segments").read_text().replace("a-5 call 10 12 0", "a-5 call 10 12 7")
    (talk / "segments").write_text(text.replace("b-5 call 10 12 1", "b-5 call 10 12 B"))

    prepare_data(talk, "own", tmp_path / "data", "own", [])

    left_out = (tmp_path / "data/left_out.tsv").read_text()
    assert "there is no channel 7: it has 2 channels, 0 to 1" in left_out
    assert "channel 'B' is not a number from 0" in left_out
    assert [(each.line, each.severity) for each in validate(talk)] == [(6, "error"), (12, "error")]


def test_a_table_may_name_channels_and_whole_recordings_become_segments(talk: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "mono.wav", voice(9), RATE)
    rows = ["call.wav\tGO\tann\t0", "call.wav\tSTOP\tben\t1", "mono.wav\tNO\tcat\t", "call.wav\tX\tdan\tleft"]
    (tmp_path / "t.tsv").write_text("path\ttext\tspeaker\tchannel\n" + "".join(f"{row}\n" for row in rows))

    found = list(read(tmp_path / "t.tsv", "own"))

    assert [each.channel for each in found] == [0, 1, None, None]
    assert "the first channel is 0" in found[3].problem
    write_data_folder(tmp_path / "set", found[:3])
    again = {each.speaker: each for each in read_data_folder(tmp_path / "set")}
    samples = soundfile.read(tmp_path / "call.wav", dtype="float32")[0]
    assert np.array_equal(load_audio(again["ben"], RATE), samples[:, 1])
    assert np.array_equal(load_audio(again["cat"], RATE), load_audio(found[2], RATE))


def test_a_channel_of_an_archive_and_of_a_command_is_heard_and_its_silence_is_seen(talk: Path, tmp_path: Path) -> None:
    values = (stereo(voice(0), 0 * voice(0)) * 32767).astype(np.int16)
    kaldiio.save_ark(str(tmp_path / "a.ark"), {"r": (RATE, values)}, scp=str(tmp_path / "a.scp"))
    places = [(tmp_path / "a.scp").read_text().split()[1], f"cat {tmp_path}/a.wav |"]
    soundfile.write(tmp_path / "a.wav", values, RATE)

    for audio in places:
        spoken, silent = (Utterance("u", "s", "X", audio, channel=place) for place in (0, 1))
        assert np.array_equal(load_audio(spoken, RATE), values[:, 0].astype(np.float32) / 32768)
        assert (probe(spoken).is_silent, probe(silent).is_silent) == (False, True)
        with pytest.raises(PqmError, match="no channel 2"):
            probe(Utterance("u", "s", "X", audio, channel=2))


def test_the_log_is_quiet_where_a_channel_was_chosen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        load_sound(stereo(voice(0), voice(1)), RATE, channel=0)

    assert not caplog.messages
