"""A run of all benchmarks that was cut off goes on; what has changed is measured again."""

import importlib
import json
import sys

import pytest

from benchmarks import run
from pqm_plugin.errors import PqmError

SCRIPT = """
import json, sys
from pathlib import Path
out = Path(sys.argv[sys.argv.index("--out") + 1])
with Path(__file__).with_suffix(".count").open("a") as count:
    count.write("x")
out.write_text(json.dumps({"meta": {}, "ceilings": {}, "decode": {"speedup": 2.0}}))
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of benchmarks with one that notes how often it was run."""
    monkeypatch.setattr(run, "HERE", tmp_path)
    (tmp_path / "decode.py").write_text(SCRIPT)
    return tmp_path


def n_runs(here):
    return len((here / "decode.count").read_text())


def test_a_script_that_has_ended_is_not_run_again(here):
    first = run.part("decode", here / "parts/decode.json", ["--device", "cpu"], "abc")
    again = run.part("decode", here / "parts/decode.json", ["--device", "cpu"], "abc")

    assert n_runs(here) == 1
    assert again == first
    assert first["decode"] == {"speedup": 2.0}


def test_other_options_another_commit_other_code_or_code_that_is_not_committed_are_measured(here):
    path = here / "parts/decode.json"
    run.part("decode", path, [], "abc")

    run.part("decode", path, ["--quick"], "abc")
    run.part("decode", path, ["--quick"], "abd")
    (here / "common.py").write_text("# changed\n")
    run.part("decode", path, ["--quick"], "abd")
    run.part("decode", path, ["--quick"], "abd with uncommitted changes")
    run.part("decode", path, ["--quick"], "abd with uncommitted changes")

    assert n_runs(here) == 6


def test_a_script_that_fails_is_named_with_its_log_and_leaves_no_part(here):
    (here / "decode.py").write_text("raise SystemExit('no such model')")

    with pytest.raises(PqmError, match=r"decode.py ended with status 1: see .*decode.log"):
        run.part("decode", here / "parts/decode.json", [], "abc")

    assert "no such model" in (here / "parts/decode.log").read_text()
    assert not (here / "parts/decode.json").exists()


def test_results_that_lack_what_others_quote_are_not_written(here, monkeypatch):
    monkeypatch.setattr(run, "SCRIPTS", ("decode",))
    monkeypatch.setattr(run, "others_running", lambda: 0.0)

    with pytest.raises(PqmError, match="without decode.beam10.speedup, decode.beam1.speedup"):
        run.measure(here, here / "parts", "cpu", quick=False)

    assert not (here / "results.json").exists()


def test_the_page_and_the_figure_are_written_from_the_numbers_alone(results, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(results))

    run.show(tmp_path)

    assert (tmp_path / "RESULTS.md").read_text().startswith("# Benchmarks\n")
    assert (tmp_path / "figures/growth.svg").is_file()


@pytest.mark.parametrize("name", [*run.SCRIPTS, "speakers", "same_words", "hear", "serve", "who", "run"])
def test_every_script_says_what_it_does(name, monkeypatch, capsys):
    module = importlib.import_module(f"benchmarks.{name}")
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])

    with pytest.raises(SystemExit) as ended:
        module.main()

    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert module.__doc__.splitlines()[0] in printed
    assert "--out" in printed
    if name not in ("speakers", "who"):
        assert {"--quick", "--device"} <= set(printed.replace("[", " ").replace("]", " ").split())


def test_a_quick_run_does_not_overwrite_what_is_published(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run.py", "--quick"])

    with pytest.raises(SystemExit):
        run.main()

    assert "name another folder with --out" in capsys.readouterr().err


def test_a_gpu_does_not_overwrite_the_page_of_the_cpu(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run.py", "--device", "cuda"])

    with pytest.raises(SystemExit):
        run.main()

    assert "--device cuda would overwrite the CPU's page: name another folder with --out" in capsys.readouterr().err


def test_a_machine_that_does_something_else_is_named_before_a_part(monkeypatch, capsys):
    for running in (0.25, 1.5):
        monkeypatch.setattr(run, "others_running", lambda running=running: running)
        run.warn_if_busy("decode")

    assert capsys.readouterr().out.splitlines() == [
        "decode: 1.5 threads of others run here: times count on a machine that does nothing else"
    ]


def test_a_page_that_others_quote_has_every_part(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run.py", "--skip", "adapt"])

    with pytest.raises(SystemExit):
        run.main()

    assert "--skip leaves out what README quotes from this folder" in capsys.readouterr().err
