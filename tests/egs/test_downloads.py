"""The scripts that fetch a corpus where none is given."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pqm_plugin.corpus.readers.librispeech import UNIONS

ROOT = Path(__file__).resolve().parents[2]


def local(recipe: str):
    """The recipe's download.py as a module."""
    spec = importlib.util.spec_from_file_location(f"download_{recipe}", ROOT / f"egs/{recipe}/local/download.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(recipe: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PQM_OPENSLR": "http://127.0.0.1:1"}
    script = ROOT / f"egs/{recipe}/local/download.py"
    return subprocess.run(
        [sys.executable, script, *arguments], capture_output=True, text=True, env=environment, check=False
    )


def test_the_sets_of_all_roles_are_fetched_once_and_what_is_there_is_left_alone(tmp_path, monkeypatch, capsys):
    module = local("librispeech")
    fetched = []
    monkeypatch.setattr(module, "start_log", lambda: None)
    monkeypatch.setattr(module, "fetch", lambda archive, out: fetched.append(archive) or out / archive.holds)
    options = ["--base", "train", "--target_set", "train-clean-360", "--sat_sets", "train-clean-100, dev-clean"]
    monkeypatch.setattr(sys, "argv", ["download.py", str(tmp_path), *options, "--train_set", "train-960"])

    assert module.main() == 0

    assert [archive.path for archive in fetched] == [
        f"12/{name}.tar.gz" for name in ("train-clean-360", "train-clean-100", "dev-clean", "train-other-500")
    ]
    assert all(part in module.SETS for parts in UNIONS.values() for part in parts)
    assert f"{tmp_path}/LibriSpeech/dev-clean is there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("recipe", "options", "said"),
    [
        ("librispeech", ["--target_set", "dev-clean"], "http://127.0.0.1:1/12/dev-clean.tar.gz cannot be fetched"),
        ("librispeech", ["--sat_sets", "train-clean-5"], "http://127.0.0.1:1/31/train-clean-5.tar.gz cannot"),
        ("librispeech", ["--target_set", "dev-claen"], "set 'dev-claen' is not published (nearest: dev-clean"),
        ("tedlium3", ["--target_set", "x"], "http://127.0.0.1:1/51/TEDLIUM_release-3.tgz cannot be fetched"),
    ],
)
def test_what_cannot_be_fetched_is_said_in_one_line(tmp_path, recipe, options, said):
    done = call(recipe, str(tmp_path), *options)

    assert done.returncode == 1
    assert said in done.stderr and done.stderr.count("\n") == 1 and not done.stdout


def test_a_corpus_that_is_there_needs_no_server(tmp_path):
    (tmp_path / "LibriSpeech/dev-clean").mkdir(parents=True)
    (tmp_path / "TEDLIUM_release-3").mkdir()

    assert call("librispeech", str(tmp_path), "--target_set", "dev-clean").returncode == 0
    assert call("tedlium3", str(tmp_path)).returncode == 0
