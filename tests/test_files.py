"""Files are whole or not there."""

import errno
import hashlib
import os
import signal
from functools import partial
from pathlib import Path

import pytest

from pqm_plugin import files
from pqm_plugin.errors import PqmError
from pqm_plugin.files import exclusive, read_json, safe_name, sha256, whole_file, whole_folder, write_json, write_text
from tests.faults import allow_writing, drop_rights, forbid_writing, in_child


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


def test_a_scratch_file_that_a_killed_process_left_is_written_over_and_not_kept(tmp_path):
    path, step = tmp_path / "a.txt", partial(write_text, tmp_path / "a.txt", "half")
    last = in_child(step, tmp_path).n_writes
    path.unlink()
    for _ in range(3):
        assert in_child(step, tmp_path, kill_at=last).signal == signal.SIGKILL
    assert not path.exists() and len(os.listdir(tmp_path)) == 1

    write_text(path, "whole")

    assert os.listdir(tmp_path) == ["a.txt"] and path.read_text() == "whole"


def test_two_who_write_one_file_at_once_do_not_share_its_scratch(tmp_path):
    path = tmp_path / "a.txt"

    with whole_file(path) as first:
        first.write_text("first")
        with whole_file(path) as second:
            assert second != first
            second.write_text("second")
        assert path.read_text() == "second"

    assert path.read_text() == "first"
    assert os.listdir(tmp_path) == ["a.txt"]


def replace_folder(path: Path) -> None:
    with whole_folder(path) as scratch:
        (scratch / "x").write_text("later")


def replace_folder_in_two_steps(path: Path) -> None:
    files._exchange = lambda one, other: False
    replace_folder(path)


@pytest.mark.parametrize("replace", [replace_folder, replace_folder_in_two_steps])
def test_a_folder_that_is_being_replaced_is_never_lost(tmp_path, replace):
    path = tmp_path / "f"
    replace_folder(path)
    n_writes = in_child(partial(replace, path), tmp_path).n_writes

    for number in range(1, n_writes + 1):
        (path / "x").write_text("earlier")
        assert in_child(partial(replace, path), tmp_path, kill_at=number).signal == signal.SIGKILL

        if replace is replace_folder:
            assert (path / "x").read_text() in ("earlier", "later"), number
        with pytest.raises(RuntimeError), whole_folder(path):
            raise RuntimeError
        assert (path / "x").read_text() in ("earlier", "later"), number
        assert os.listdir(tmp_path) == ["f"]

    assert n_writes >= 4


def test_what_may_not_be_written_is_one_line_that_names_it(tmp_path):
    write_text(tmp_path / "in/a.txt", "earlier")
    forbid_writing(tmp_path / "in")

    said = [
        in_child(step, tmp_path, before=drop_rights).said
        for step in (
            partial(write_text, tmp_path / "in/a.txt", "later"),
            partial(write_text, tmp_path / "in/deep/a.txt", "later"),
            partial(replace_folder, tmp_path / "in/f"),
        )
    ]

    allow_writing(tmp_path / "in")
    remedy = ": permission denied; correct its access rights, or use another folder"
    assert said == [f"{tmp_path}/in/{name}{remedy}" for name in ("a.txt", "deep", "f")]
    assert (tmp_path / "in/a.txt").read_text() == "earlier"
