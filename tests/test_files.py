"""Files are whole or not there."""

import errno
import hashlib
import os

import pytest

from pqm_plugin.errors import PqmError
from pqm_plugin.files import exclusive, read_json, safe_name, sha256, whole_file, whole_folder, write_json, write_text


def test_a_failure_while_writing_leaves_the_earlier_file_and_no_scratch(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "earlier")

    with pytest.raises(RuntimeError), whole_file(path) as scratch:
        scratch.write_text("half")
        raise RuntimeError

    assert path.read_text() == "earlier"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_is_one_line_that_names_the_file(tmp_path):
    def fill():
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(PqmError, match=r"a\.txt: the disk is full; free some space"), whole_file(tmp_path / "a.txt"):
        fill()


def test_a_folder_takes_the_place_of_the_earlier_one(tmp_path):
    folder = tmp_path / "f"
    for content in ("one", "two"):
        with whole_folder(folder) as scratch:
            (scratch / "x").write_text(content)

    assert (folder / "x").read_text() == "two"
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("name", ["84", "v01", "AmandaBurden_2014", "a.b-c"])
def test_ordinary_names_are_taken(name):
    assert safe_name(name) == name


@pytest.mark.parametrize("name", ["", "../../x", "a/b", ".hidden", "con", "NUL.txt", "x" * 300, "😀", "a b", "end."])
def test_names_that_could_leave_a_folder_or_break_a_system_are_refused(name):
    with pytest.raises(PqmError, match="cannot be a folder name"):
        safe_name(name)


def test_json_that_is_missing_or_broken_is_named_with_the_remedy(tmp_path):
    (tmp_path / "b.json").write_text("{")

    with pytest.raises(PqmError, match="is missing: run the stage"):
        read_json(tmp_path / "a.json")
    with pytest.raises(PqmError, match="is not JSON"):
        read_json(tmp_path / "b.json")


def test_json_and_hash_round_trip(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": "ü"})

    assert read_json(tmp_path / "a.json") == {"b": 1, "a": "ü"}
    assert sha256(tmp_path / "a.json") == hashlib.sha256(b'{\n  "b": 1,\n  "a": "\xc3\xbc"\n}\n').hexdigest()


def test_a_second_process_on_one_folder_is_told_who_is_at_work(tmp_path):
    with exclusive(tmp_path / ".lock"):
        with pytest.raises(PqmError, match=rf"process {os.getpid()} is at work on it"), exclusive(tmp_path / ".lock"):
            pass
    with exclusive(tmp_path / ".lock"):
        pass


def test_what_a_killed_process_left_aside_is_swept_but_not_its_neighbours(tmp_path):
    for name in (".ann.partial", ".ann.old", ".ann.b.partial"):
        (tmp_path / name).mkdir()

    with whole_folder(tmp_path / "ann"):
        pass

    assert sorted(os.listdir(tmp_path)) == [".ann.b.partial", "ann"]
