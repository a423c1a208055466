"""Parallel jobs: all run, a failure is named with its log and takes no other along."""

import os
import time
from pathlib import Path

import pytest

from pqm_plugin.errors import PqmError
from pqm_plugin.stages.common.jobs import Job, run_jobs
from pqm_plugin.stages.common.partial_results import Line, Part

pytestmark = pytest.mark.slow


def job(tmp_path: Path, name: str, function, *arguments) -> Job:
    return Job(name, function, arguments, tmp_path / f"{name}.log")


def test_all_jobs_run_and_write_their_logs(tmp_path):
    run_jobs([job(tmp_path, name, os.mkdir, str(tmp_path / name)) for name in "abc"], 2, "test")

    assert all((tmp_path / name).is_dir() for name in "abc")
    assert "job a: process" in (tmp_path / "a.log").read_text()


def test_the_end_of_a_job_is_seen_at_once_however_seldom_progress_is_shown(tmp_path, monkeypatch):
    monkeypatch.setattr("pqm_plugin.stages.common.jobs._POLL_S", 600)
    start = time.monotonic()

    run_jobs([job(tmp_path, name, os.mkdir, str(tmp_path / name)) for name in "abc"], 1, "test")

    assert time.monotonic() - start < 300


def test_a_job_that_fails_is_named_and_the_others_are_done(tmp_path):
    (tmp_path / "b").mkdir()

    with pytest.raises(PqmError, match=r"1 of 3 jobs failed.*b: FileExistsError.*b\.log"):
        run_jobs([job(tmp_path, name, os.mkdir, str(tmp_path / name)) for name in "abc"], 1, "test")

    assert (tmp_path / "c").is_dir()


def test_a_job_that_is_killed_is_named(tmp_path):
    with pytest.raises(PqmError, match="1 of 1 jobs failed"):
        run_jobs([job(tmp_path, "a", os._exit, 9)], 1, "test")


def succeed_the_second_time(path: Path) -> None:
    if not path.exists():
        path.touch()
        os._exit(9)


def give_up(path: Path) -> None:
    with path.open("a") as file:
        file.write("tried\n")
    raise PqmError("mend this")


def test_a_job_that_is_killed_is_tried_once_more_and_the_first_log_is_kept(tmp_path, caplog):
    run_jobs([job(tmp_path, "a", succeed_the_second_time, tmp_path / "seen")], 1, "test")

    assert (tmp_path / "a.log").read_text().count("job a: process") == 2
    assert "a: ended with exit status 9" in caplog.text
    assert "trying it once more" in caplog.text


def test_an_error_that_the_user_can_mend_is_not_tried_again(tmp_path):
    with pytest.raises(PqmError, match="a: mend this"):
        run_jobs([job(tmp_path, "a", give_up, tmp_path / "tries")], 1, "test")

    assert (tmp_path / "tries").read_text() == "tried\n"


def test_no_jobs_are_no_error(tmp_path):
    run_jobs([], 2, "test")


def test_a_part_goes_on_after_a_line_that_was_cut_off(tmp_path):
    path, request = tmp_path / "a.jsonl", {"system": "nf4"}
    part = Part.read(path, request, ["u1", "u2", "u3"])
    part.start()
    part.append(Line("u1", "A CAT", -1.5, 2.0, 0.5, 100))
    with path.open("a") as file:
        file.write('{"utterance": "u2", "te')

    again = Part.read(path, request, ["u1", "u2", "u3"])

    assert [line.utterance for line in again.lines] == ["u1"]
    assert again.missing == ["u2", "u3"]
    again.start()
    again.append(Line("u2", "", None, 1.0, 0.1, 100))
    assert Part.read(path, request, ["u1", "u2", "u3"]).missing == ["u3"]


def test_a_part_that_answers_another_request_counts_for_nothing(tmp_path):
    path = tmp_path / "a.jsonl"
    part = Part.read(path, {"beam": 1}, ["u1"])
    part.start()
    part.append(Line("u1", "A", -1.0, 1.0, 1.0, 1))

    assert Part.read(path, {"beam": 2}, ["u1"]).missing == ["u1"]
