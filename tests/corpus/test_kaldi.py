"""Data folders are written as Kaldi wants them and read back unchanged."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from pqm_plugin.corpus.kaldi import parse_segment, read_data_folder, write_data_folder
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError

TWO = [
    Utterance("b-1", "b", "GOOD MORNING", "/x/b 1.flac"),
    Utterance("a-1", "a", "HELLO", "/x/a-1.flac"),
]


def test_files_hold_what_kaldi_expects(tmp_path: Path) -> None:
    write_data_folder(tmp_path / "set", TWO)

    files = {path.name: path.read_text() for path in (tmp_path / "set").iterdir()}
    assert files == {
        "wav.scp": "a-1 /x/a-1.flac\nb-1 /x/b 1.flac\n",
        "text": "a-1 HELLO\nb-1 GOOD MORNING\n",
        "utt2spk": "a-1 a\nb-1 b\n",
        "spk2utt": "a a-1\nb b-1\n",
    }


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    parts = [
        Utterance("t-2", "t", "TWO", "sph2pipe t.sph |", 1.1, 2.345, "t"),
        Utterance("t-3", "t", "THREE", "sph2pipe t.sph |", 2.5, None, "t"),
    ]

    write_data_folder(tmp_path / "whole", TWO)
    write_data_folder(tmp_path / "parts", parts)

    assert read_data_folder(tmp_path / "whole") == TWO[::-1]
    assert read_data_folder(tmp_path / "parts") == parts
    assert (tmp_path / "parts/wav.scp").read_text() == "t sph2pipe t.sph |\n"
    assert (tmp_path / "parts/segments").read_text() == "t-2 t 1.1 2.345\nt-3 t 2.5 -1.0\n"


def test_the_order_is_that_of_sort_in_the_c_locale(tmp_path: Path) -> None:
    names = ["a10-1", "a1-2", "A-1", "a_1", "ä-1", "a-1", "Z", "a.b", "😀", "ﬀ"]
    write_data_folder(tmp_path / "set", [Utterance(name, name, "X", f"/{name}") for name in names])

    for name in ("wav.scp", "text", "utt2spk", "spk2utt"):
        check = subprocess.run(["sort", "-c", tmp_path / "set" / name], env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"})
        assert check.returncode == 0


def test_a_folder_that_holds_the_same_is_left_alone_and_another_is_replaced_whole(tmp_path: Path) -> None:
    write_data_folder(tmp_path / "set", TWO)
    before = (tmp_path / "set").stat().st_ino

    write_data_folder(tmp_path / "set", TWO[::-1])
    same = (tmp_path / "set").stat().st_ino
    write_data_folder(tmp_path / "set", TWO[:1])

    assert same == before
    assert (tmp_path / "set/text").read_text() == "b-1 GOOD MORNING\n"
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_segments_of_an_earlier_run_do_not_stay_behind(tmp_path: Path) -> None:
    write_data_folder(tmp_path / "set", [replace(TWO[0], start_s=0.0, end_s=1.0, recording="b-1")])
    write_data_folder(tmp_path / "set", TWO[:1])

    assert not (tmp_path / "set/segments").exists()


@pytest.mark.parametrize(
    ("utterances", "words"),
    [
        ([], "no utterance"),
        ([TWO[0], TWO[0]], "two utterances are called b-1"),
        ([replace(TWO[0], text=" ")], "b-1 lacks text"),
        ([replace(TWO[0], audio="")], "b-1 lacks audio"),
        ([replace(TWO[0], speaker="b c")], "'b c' of utterance 'b-1'"),
        ([TWO[0], replace(TWO[1], start_s=0.0)], "some are not"),
    ],
)
def test_what_kaldi_could_not_read_is_not_written(tmp_path: Path, utterances: list[Utterance], words: str) -> None:
    with pytest.raises(PqmError, match=words):
        write_data_folder(tmp_path / "set", utterances)
    assert not (tmp_path / "set").exists()


def test_a_transcript_is_cut_at_line_ends_only(tmp_path: Path) -> None:
    write_data_folder(tmp_path / "set", TWO)
    (tmp_path / "set/text").write_text("a-1 ONE\u2028TWO\x0cTHREE\nb-1 FOUR\n", encoding="utf-8")

    assert [utterance.text for utterance in read_data_folder(tmp_path / "set")] == ["ONE\u2028TWO\x0cTHREE", "FOUR"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("text", "a-1 HELLO\n", "b-1 is not in this file"),
        ("text", "a-1 HELLO\nb-1 X\nc-1 Y\n", "c-1 is only in this file"),
        ("text", "a-1 HELLO\nb-1\n", "text:2: b-1 has no value"),
        ("wav.scp", "a-1 /x\na-1 /y\n", "wav.scp:2: a-1 appears twice here"),
        ("segments", "a-1 a-1 0 1\nb-1 nowhere 0 1\n", "nowhere"),
        ("utt2spk", None, "utt2spk is missing"),
    ],
)
def test_a_broken_folder_is_refused_by_file_and_name(
    tmp_path: Path, name: str, content: str | None, words: str
) -> None:
    write_data_folder(tmp_path / "set", TWO)
    if content is None:
        (tmp_path / "set" / name).unlink()
    else:
        (tmp_path / "set" / name).write_text(content)

    with pytest.raises(PqmError, match=words):
        read_data_folder(tmp_path / "set")


def test_segment_lines_are_parts_of_recordings() -> None:
    assert parse_segment("rec 0.5 1.25") == ("rec", 0.5, 1.25, None)
    assert parse_segment("rec 0.5 -1") == ("rec", 0.5, None, None)
    assert parse_segment("rec 0.5 1.25 1") == ("rec", 0.5, 1.25, 1)
    assert parse_segment("rec 0.5 1.25 -1") == ("rec", 0.5, 1.25, None)
    for bad in (
        "rec 1",
        "rec one 2",
        "rec 2 1",
        "rec -1 2",
        "rec 1 1",
        "rec nan 2",
        "rec 1 2 A",
        "rec 1 2 -2",
        "rec 1 2 0 0",
    ):
        with pytest.raises(ValueError):
            parse_segment(bad)
