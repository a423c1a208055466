"""The validator finds every kind of problem by file and line."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from pqm_plugin.corpus.kaldi import write_data_folder
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.corpus.validate import Problem, speaker_warnings, validate


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    samples = np.random.default_rng(0).integers(-3000, 3000, 16000, dtype=np.int16)
    for name in ("a-1", "a-2", "b-1"):
        soundfile.write(tmp_path / f"{name}.wav", samples, 16000)
    utterances = [Utterance(name, name[0], "HELLO", f"{tmp_path}/{name}.wav") for name in ("a-1", "a-2", "b-1")]
    write_data_folder(tmp_path / "set", utterances)
    return tmp_path / "set"


def found(folder: Path, read_audio: bool = True) -> list[tuple[str, int, str, str]]:
    """Return file name, line, severity and what of every problem."""
    return [(each.file.name, each.line, each.severity, each.what) for each in validate(folder, read_audio)]


def test_a_good_folder_has_no_problem(folder: Path) -> None:
    assert validate(folder) == []


def test_a_problem_is_one_line_that_an_editor_can_jump_to() -> None:
    assert (
        str(Problem(Path("d/text"), 3, "error", "blank line", "delete it")) == "d/text:3: error: blank line: delete it"
    )
    assert str(Problem(Path("d/text"), 0, "warning", "odd", "look")) == "d/text: warning: odd: look"


def test_a_folder_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    assert found(tmp_path / "no") == [("no", 0, "error", "is not a folder")]


def test_missing_files_are_named(folder: Path) -> None:
    (folder / "text").unlink()
    (folder / "spk2utt").unlink()

    assert found(folder) == [("text", 0, "error", "is missing"), ("spk2utt", 0, "error", "is missing")]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("text", "a-2 X\na-1 X\nb-1 X\n", ("text", 2, "error", "a-1 is not in order after a-2")),
        ("text", "a-1 X\na-1 X\na-2 X\nb-1 X\n", ("text", 2, "error", "a-1 stands in line 1 already")),
        ("text", "a-1 X\n\na-2 X\nb-1 X\n", ("text", 2, "error", "blank line")),
        ("text", "a-1 X\na-2 \nb-1 X\n", ("text", 2, "error", "a-2 has no text")),
        ("text", "a-1 X\r\na-2 X\r\nb-1 X\r\n", ("text", 0, "error", "has Windows line ends")),
        ("text", b"a-1 X\na-2 \xff\nb-1 X\n", ("text", 0, "error", "is not UTF-8 (invalid start byte at byte 10)")),
        ("text", "a-1 X\nb-1 X\n", ("wav.scp", 2, "error", "audio without transcript: a-2")),
        ("text", "a-1 X\na-2 X\na-3 X\nb-1 X\n", ("text", 3, "error", "transcript without audio: a-3")),
        ("utt2spk", "a-1 a\na-2 a\n", ("wav.scp", 3, "error", "utterance without speaker: b-1")),
        ("spk2utt", "a a-1\nb b-1\n", ("utt2spk", 2, "error", "a-2 of a is not in spk2utt")),
        ("spk2utt", "a a-1 a-2\nb a-1 b-1\n", ("spk2utt", 2, "error", "a-1 of b is not in utt2spk")),
        ("utt2spk", "a-1 a/x\na-2 a/x\nb-1 b\n", ("utt2spk", 1, "error", "speaker name 'a/x' cannot be a folder name")),
    ],
)
def test_each_problem_of_a_table_is_found(
    folder: Path, name: str, content: str | bytes, problem: tuple[str, int, str, str]
) -> None:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    assert problem in found(folder, read_audio=False)


def test_each_problem_of_the_audio_is_found_by_its_line(folder: Path) -> None:
    (folder.parent / "a-1.wav").write_bytes((folder.parent / "a-1.wav").read_bytes()[:9000])
    (folder.parent / "a-2.wav").unlink()
    (folder.parent / "b-1.wav").write_bytes(b"")

    problems = found(folder)

    assert [problem[:3] for problem in problems] == [("wav.scp", line, "error") for line in (1, 2, 3)]
    assert ["cut off" in problems[0][3], "missing" in problems[1][3], "is empty" in problems[2][3]] == [True] * 3


def test_another_rate_and_silence_are_warnings(folder: Path) -> None:
    for name in ("a-2", "b-1"):
        soundfile.write(folder.parent / f"{name}.wav", np.full(8000, 0.1), 8000)
    soundfile.write(folder.parent / "a-1.wav", np.zeros(16000), 16000)

    assert found(folder) == [
        ("wav.scp", 1, "warning", f"{folder.parent}/a-1.wav is silent"),
        ("wav.scp", 2, "warning", "2 recordings, this the first, are at 8000 Hz"),
    ]


def test_segments_outside_their_recording_are_found(folder: Path) -> None:
    (folder / "wav.scp").write_text(f"r {folder.parent}/a-1.wav\n")
    (folder / "segments").write_text("a-1 r 0.0 9.0\na-2 q 0.0 1.0\nb-1 r 0.9 0.1\n")

    assert found(folder) == [
        ("segments", 1, "error", "a-1: ends behind its recording of 1.00 s"),
        ("segments", 2, "error", "a-2: recording q is not in wav.scp"),
        ("segments", 3, "error", "b-1: start 0.9 s and end 0.1 s are not a part of a recording"),
    ]


def test_chapters_that_pose_as_speakers_are_a_warning(folder: Path) -> None:
    triples = [("84-121550-0000", "84-121550", "84-121550-0000"), ("84-121551-0000", "84-121551", "84-121551-0000")]

    assert speaker_warnings(triples) == ["2 speakers look like reader-chapter (84-121550, 84-121551)"]


@pytest.mark.parametrize("prefix", ["", "AimeeMullins_2009-{}-"])
def test_pieces_of_a_talk_that_pose_as_speakers_are_a_warning(prefix: str) -> None:
    triples = [
        (f"{prefix.format(piece)}AimeeMullins_2009-000{piece}", f"AimeeMullins_2009-{piece}", f"rec{piece}")
        for piece in (1, 2)
    ]

    expected = "2 speakers look like numbered pieces of a talk (AimeeMullins_2009-1, AimeeMullins_2009-2)"
    assert speaker_warnings(triples) == [expected]


def test_pieces_of_one_recording_are_a_warning_whatever_their_utterances_are_called() -> None:
    assert len(speaker_warnings([("u1", "talk-1", "rec"), ("u2", "talk-2", "rec")])) == 1


def test_numbered_people_are_no_warning() -> None:
    triples = [("spk-1-0001", "spk-1", "r1"), ("spk-2_0001", "spk-2", "r2"), ("7-1-0001", "7", "r3")]

    assert speaker_warnings(triples) == []
