"""Jobs on a real Slurm: arrays, jobs that are killed, a node that is drained, a recipe that is gone."""

import contextlib
import dataclasses
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pqm_plugin.errors import PqmError
from pqm_plugin.stages.common.jobs import Job, run_jobs
from pqm_plugin.stages.common.slurm import ACTIVE, Queue, Slurm, SlurmOptions, Task

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 300


@pytest.fixture
def slurm(tmp_path) -> Slurm:
    """Return a backend on this machine's Slurm, if there is one."""
    if shutil.which("sinfo") is None or subprocess.run(["sinfo"], capture_output=True, timeout=30).returncode:
        pytest.skip("no Slurm answers: run tools/slurm_here.sh as root")
    return Slurm(tmp_path / "slurm", SlurmOptions(time="10"))


def job(tmp_path: Path, name: str, function, *arguments, **more) -> Job:
    return Job(name, function, arguments, tmp_path / "log" / f"{name}.log", **more)


def die_once(path: Path) -> None:
    """Be killed the first time."""
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    path.write_text("done")


def sleep_once(path: Path) -> None:
    """Take very long the first time."""
    if not path.exists():
        path.touch()
        time.sleep(LIMIT_S)
    path.write_text("done")


def give_up(path: Path) -> None:
    """Meet an error that the user can mend."""
    with path.open("a") as file:
        file.write("tried\n")
    raise PqmError("mend this")


def wait_for(condition) -> None:
    """Wait until `condition()` holds."""
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


@contextlib.contextmanager
def meanwhile(function):
    """Run `function` in a thread until the block ends."""
    thread = threading.Thread(target=function)
    thread.start()
    yield
    thread.join(LIMIT_S)
    assert not thread.is_alive()


def process_of(log: Path) -> int:
    """The process that writes a log, 0 until it does."""
    found = re.search(r": process (\d+), Slurm's job", log.read_text()) if log.exists() else None
    return int(found[1]) if found else 0


def active(name: str) -> list[Task]:
    return [task for task in (Queue(name).tasks() or {}).values() if task.state in ACTIVE]


def test_options_go_to_sbatch_by_their_long_names():
    options = SlurmOptions("long", "1-0", "4G", "account=me --qos=high requeue", 1)

    assert options.as_sbatch() == {
        "partition": "long",
        "time": "1-0",
        "mem": "4G",
        "gpus-per-node": 1,
        "account": "me",
        "qos": "high",
        "requeue": True,
    }


@pytest.mark.parametrize("extra", ["array=1-3", "=x", "a;b=1", "output=x"])
def test_an_option_that_is_ours_to_set_or_none_is_refused(extra):
    with pytest.raises(PqmError, match="--slurm_extra"):
        SlurmOptions(extra=extra).as_sbatch()


def test_where_no_jobs_can_be_submitted_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(PqmError, match="there is no sbatch here"):
        run_jobs([job(tmp_path, "a", os.mkdir, "a")], 1, "test", Slurm(tmp_path, SlurmOptions()))


@pytest.mark.slow
@pytest.mark.slurm
def test_jobs_run_as_one_array_and_leave_nothing_but_their_logs(slurm, tmp_path):
    jobs = [job(tmp_path, name, os.mkdir, str(tmp_path / name)) for name in "abc"]

    run_jobs(jobs, 2, "test", slurm)

    assert all((tmp_path / name).is_dir() for name in "abc")
    assert "Slurm's job" in (tmp_path / "log" / "a.log").read_text()
    assert list((tmp_path / "slurm").iterdir()) == []


@pytest.mark.slow
@pytest.mark.slurm
def test_failures_are_named_and_a_killed_job_alone_is_tried_again(slurm, tmp_path, caplog):
    (tmp_path / "there").mkdir()
    jobs = [
        job(tmp_path, "fails", os.mkdir, str(tmp_path / "there")),
        job(tmp_path, "killed", die_once, tmp_path / "killed"),
        job(tmp_path, "mended", give_up, tmp_path / "tries"),
        job(tmp_path, "good", os.mkdir, str(tmp_path / "good")),
    ]

    with pytest.raises(
        PqmError, match=r"2 of 4 jobs failed.*mended: mend this \(see .*fails: FileExistsError"
    ) as caught:
        run_jobs(jobs, 2, "test", slurm)

    assert "\n" not in str(caught.value)
    assert (tmp_path / "good").is_dir()
    assert (tmp_path / "killed").read_text() == "done"
    assert (tmp_path / "tries").read_text() == "tried\n"
    assert (tmp_path / "log" / "fails.log").read_text().count("FileExistsError") == 2
    assert "killed: Slurm says FAILED" in caplog.text
    assert "    FileExistsError" in caplog.text


@pytest.mark.slow
@pytest.mark.slurm
def test_a_job_that_is_cancelled_from_outside_is_tried_again_and_the_others_go_on(slurm, tmp_path, caplog):
    jobs = [job(tmp_path, name, sleep_once, tmp_path / name) for name in "ab"]
    (tmp_path / "b").touch()

    with meanwhile(lambda: run_jobs(jobs, 2, "test", slurm)):
        wait_for((tmp_path / "a").exists)
        [folder] = (tmp_path / "slurm").iterdir()
        [number] = [key for key, task in Queue(folder.name).tasks().items() if task.state == "RUNNING" and "_0" in key]
        subprocess.run(["scancel", number], check=True)

    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text() == "done"
    assert "a: Slurm says CANCELLED" in caplog.text


@pytest.mark.slow
@pytest.mark.slurm
def test_jobs_wait_for_a_drained_node_say_so_and_go_on_when_it_is_back(slurm, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    node = subprocess.run(["sinfo", "-hNo", "%N"], capture_output=True, text=True, check=True).stdout.split()[0]
    if os.geteuid() != 0:
        pytest.skip("only root may drain a node")
    set_state = ["scontrol", "update", f"nodename={node}"]
    subprocess.run([*set_state, "state=drain", "reason=test"], check=True)
    try:
        with meanwhile(lambda: run_jobs([job(tmp_path, "a", os.mkdir, str(tmp_path / "a"))], 1, "test", slurm)):
            wait_for(lambda: "jobs wait: Nodes required for job are DOWN, DRAINED" in caplog.text)
            assert not (tmp_path / "a").exists()
            subprocess.run([*set_state, "state=resume"], check=True)
    finally:
        subprocess.run([*set_state, "state=resume"], capture_output=True, check=False)

    assert (tmp_path / "a").is_dir()


@pytest.mark.slow
@pytest.mark.slurm
def test_a_partition_that_is_not_there_is_one_line(slurm, tmp_path):
    wrong = Slurm(tmp_path / "slurm", SlurmOptions(partition="no_such"))

    with pytest.raises(PqmError, match="Slurm does not take the jobs: .*[Ii]nvalid partition"):
        run_jobs([job(tmp_path, "a", os.mkdir, str(tmp_path / "a"))], 1, "test", wrong)


RECIPE = """
import signal, sys, time
from pathlib import Path
from pqm_plugin.stages.common.jobs import Job, run_jobs
from pqm_plugin.stages.common.slurm import Slurm, SlurmOptions
# Where the suite runs in the background, its shell has interrupts ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
root = Path(sys.argv[1])
jobs = [Job(str(i), time.sleep, (300,), root / f"{i}.log") for i in range(3)]
run_jobs(jobs, 1, "test", Slurm(root / "slurm", SlurmOptions(time="10")))
"""


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_jobs_of_a_recipe_that_was_interrupted_are_cancelled_at_once_or_by_the_next(slurm, tmp_path, how, caplog):
    caplog.set_level(logging.INFO)
    recipe = subprocess.Popen([sys.executable, "-c", RECIPE, tmp_path], cwd=ROOT, stderr=subprocess.DEVNULL)
    wait_for((tmp_path / "0.log").exists)
    [folder] = (tmp_path / "slurm").iterdir()

    recipe.send_signal(how)
    recipe.wait(LIMIT_S)

    if how == signal.SIGKILL:
        assert active(folder.name)
        run_jobs([job(tmp_path, "a", os.mkdir, str(tmp_path / "a"))], 1, "test", slurm)
        assert "of an earlier run were still on the cluster and are cancelled" in caplog.text
    assert not active(folder.name)


@pytest.mark.slow
@pytest.mark.slurm
def test_stages_5_and_6_on_slurm_give_what_they_give_here_though_a_job_was_killed(slurm, recipe, run, tmp_path, caplog):
    here = dataclasses.replace(recipe, systems=("int8", "nf4+speaker"))
    run("data", "base", "quantize", "pretrain", of=here)
    there = dataclasses.replace(here, expdir=tmp_path / "there", cmd_backend="slurm", slurm_time="10")
    shutil.copytree(here.expdir, there.expdir)

    run("adapt", "decode", of=here)
    log = there.packed_dir / "speakers" / "log" / "adapt.0.log"
    with meanwhile(lambda: run("adapt", of=there)):
        wait_for(lambda: process_of(log))
        os.kill(process_of(log), signal.SIGKILL)
    run("decode", of=there)

    assert "trying it once more" in caplog.text
    for name in ("speakers/10", "speakers/20"):
        weights = [(one.packed_dir / name / "adapter_model.safetensors").read_bytes() for one in (here, there)]
        assert weights[0] == weights[1]
    for system in here.systems:
        words = [(one.decode_dir(system, "dev") / "text").read_bytes() for one in (here, there)]
        assert words[0] == words[1]
    caplog.clear()
    run("adapt", "decode", of=there)
    assert "0 speakers to adapt" in caplog.text
    assert "0 decoding jobs" in caplog.text
    assert list((there.packed_dir / "slurm").iterdir()) == []
