"""Which recordings a user means, and what is said in them."""

from pathlib import Path

import pytest

from pqm_plugin.errors import PqmError
from pqm_plugin.personal.recordings import find_recordings


@pytest.fixture
def desk(tmp_path) -> Path:
    for name in ("b.flac", "a.wav", "more/c d.mp3", "notes.pdf", ".hidden.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def names(found):
    return [path.name for path in found.paths]


def test_recordings_below_a_folder_are_found_in_order_and_nothing_else(desk):
    found = find_recordings([desk])

    assert names(found) == ["a.wav", "b.flac", "c d.mp3"]
    assert found.texts is None


def test_texts_come_from_a_list_by_stem_or_name_with_blanks_or_a_tab(desk):
    (desk / "text").write_text("\ufeffa GO  ON\nb.flac STOP\nc d\tNO\nghost WHO\n", encoding="utf-8")

    found = find_recordings([desk], desk / "text")

    assert found.texts == ("GO ON", "STOP", "NO")


def test_texts_beside_recordings_are_found_and_what_has_none_is_left_out(desk, caplog):
    (desk / "a.txt").write_text("GO ON\n")

    found = find_recordings([desk])

    assert (names(found), found.texts) == (["a.wav"], ("GO ON",))
    assert "2 of 3 recordings have no text" in caplog.text
    assert find_recordings([desk], unsupervised=True).texts is None


def test_a_text_beside_a_recording_is_found_whatever_the_case_of_its_ending(desk):
    (desk / "a.TXT").write_text("GO ON\n")

    assert find_recordings([desk]).texts == ("GO ON",)


def test_a_list_in_the_folder_that_nobody_named_is_said(desk, caplog):
    (desk / "list.txt").write_text("a GO ON\nb STOP\n")

    assert find_recordings([desk]).texts is None
    assert "list.txt not read: --transcripts takes a list" in caplog.text


def test_recordings_of_phones_are_found_by_name_and_files_of_unknown_endings_are_named(desk, caplog):
    for name in ("voice 1.m4a", "more/v.webm", "x.xyz"):
        (desk / name).write_bytes(b"x")
    (desk / "text").write_text("voice 1.m4a\tGO ON\nv NO\n")

    found = find_recordings([desk], desk / "text")

    assert dict(zip(names(found), found.texts, strict=True)) == {"voice 1.m4a": "GO ON", "v.webm": "NO"}
    assert "x.xyz" in caplog.text and "not there" not in caplog.text


@pytest.mark.parametrize(
    ("lines", "why"),
    [("x A", "names none of the 3"), ("a A\na B", "appears twice here"), ("same A", "two recordings")],
)
def test_a_list_that_cannot_be_meant_is_refused(desk, lines, why):
    for name in ("one/same.wav", "two/same.wav") if "same" in lines else ():
        (desk / name).parent.mkdir()
        (desk / name).write_bytes(b"x")
    (desk / "text").write_text(lines)

    with pytest.raises(PqmError, match=why):
        find_recordings([desk], desk / "text")


def test_a_folder_without_recordings_and_a_missing_one_are_named(desk):
    (desk / "empty").mkdir()

    with pytest.raises(PqmError, match="no recordings there"):
        find_recordings([desk / "empty"])
    with pytest.raises(PqmError, match="missing"):
        find_recordings([desk / "ghost"])
