"""The recipes' shell: options like ESPnet's, stages that are wanted, errors with help and exit 2."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pqm_plugin.commands.__main__ import _parser as pqm_parser

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(ROOT.glob("egs/*/run.sh"))
PATHS = {**os.environ, "PYTHONPATH": str(ROOT)}
SPY = """#!/usr/bin/env bash
IFS=$'\\t'
printf '%s\\n' "$*" >> "${SPY_LOG}"
"""


def call(recipe: Path, *arguments: str, spy: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ)
    if spy:
        (spy / "python").write_text(SPY)
        (spy / "python").chmod(0o755)
        environment["SPY_LOG"] = str(spy / "log")
        arguments = ("--python", str(spy / "python"), *arguments)
    return subprocess.run([recipe, *arguments], capture_output=True, text=True, env=environment, check=False)


def calls(spy: Path) -> list[list[str]]:
    """The arguments of each call of Python."""
    lines = (spy / "log").read_text().splitlines() if (spy / "log").exists() else []
    return [line.split("\t") for line in lines]


def stages(spy: Path) -> list[str]:
    return [words[2] for words in calls(spy) if words[:2] == ["-m", "pqm_plugin"]]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.parent.name)
def test_help_says_in_its_first_lines_that_stages_are_numbered_otherwise_than_in_espnet(recipe):
    done = call(recipe, "--help", "--python", sys.executable)

    assert done.returncode == 0
    assert "ESPnet's asr.sh numbers its stages otherwise" in "".join(done.stdout.splitlines(True)[:4])
    assert "--speakers" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--stage", "5"], ["adapt", "decode", "score", "report"]),
        (["--stage", "5", "--stop_stage", "5"], ["adapt"]),
        (["--stage", "5", "--stop-stage", "5"], ["adapt"]),
        (["--stage", "3", "--stop_stage", "6", "--skip_stages", "4 5"], ["quantize", "decode"]),
        ([], ["data", "base", "quantize", "pretrain", "adapt", "decode", "score", "report"]),
    ],
)
def test_the_stages_that_are_asked_for_run_in_order(tmp_path, arguments, expected):
    done = call(ROOT / "egs/librispeech/run.sh", *arguments, spy=tmp_path)

    assert done.returncode == 0, done.stderr
    assert stages(tmp_path) == expected
    assert re.search(r"Successfully finished\. \[elapsed=\d+s\]", done.stderr)


def test_a_users_option_comes_after_the_recipes_own_and_so_wins(tmp_path):
    call(ROOT / "egs/librispeech/run.sh", "--stage", "5", "--stop_stage", "5", "--target_set", "mine", spy=tmp_path)

    [words] = calls(tmp_path)
    assert words.index("dev-clean") < words.index("mine")


def value(words: list[str], option: str) -> str | None:
    """The last value of an option, which is the one that counts."""
    return next((after for name, after in reversed(list(zip(words, words[1:], strict=False))) if name == option), None)


@pytest.mark.parametrize("recipe", ["librispeech", "tedlium3", "demo"])
def test_the_corpus_is_made_or_fetched_only_where_none_is_given(tmp_path, recipe):
    call(ROOT / f"egs/{recipe}/run.sh", "--stop_stage", "1", spy=tmp_path)
    call(ROOT / f"egs/{recipe}/run.sh", "--stop_stage", "1", "--corpus", "mine", spy=tmp_path)

    fetched, without, given = calls(tmp_path)
    downloads = str(ROOT / "egs" / recipe / "downloads")
    assert fetched[0].startswith(str(ROOT / "egs" / recipe / "local")) and fetched[1] == downloads
    assert value(fetched, "--target_set") == value(without, "--target_set")
    assert (value(without, "--corpus"), value(given, "--corpus")) == (downloads, "mine")


def test_the_papers_partition_and_a_base_of_ones_own_bring_their_sets(tmp_path):
    for recipe in ("librispeech", "tedlium3"):
        options = ["--stage", "2", "--stop_stage", "2"]
        call(ROOT / f"egs/{recipe}/run.sh", *options, spy=tmp_path)
        call(ROOT / f"egs/{recipe}/run.sh", *options, "--partition", "paper", "--base", "train", spy=tmp_path)

    roles = ("--target_set", "--sat_sets", "--train_set", "--valid_set")
    assert [[value(words, role) for role in roles] for words in calls(tmp_path)] == [
        ["dev-clean", "train-clean-5", None, None],
        ["train-clean-360", "train-clean-100", "train-600", "dev"],
        ["speaker-adaptation-test", "speaker-adaptation-train", None, None],
        ["speaker-adaptation", "speaker-adaptation-train", "speaker-adaptation-train", "speaker-adaptation-dev"],
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["5"], "'5' is no option"),
        (["--stage"], "--stage needs a value"),
        (["--stage=5"], "write '--stage 5' instead"),
        (["--stage", "9"], "stage '9' is not one of 1 to 8"),
    ],
)
def test_a_wrong_command_line_is_an_error_with_exit_2(tmp_path, arguments, message):
    done = call(ROOT / "egs/librispeech/run.sh", *arguments, spy=tmp_path)

    assert done.returncode == 2
    assert message in done.stderr
    assert stages(tmp_path) == []


def test_an_unknown_option_is_an_error_with_exit_2():
    done = call(ROOT / "egs/librispeech/run.sh", "--stage", "5", "--baem", "3", "--python", sys.executable)

    assert done.returncode == 2
    assert "--baem" in done.stderr


def test_a_failing_stage_stops_the_recipe(tmp_path):
    done = call(ROOT / "egs/librispeech/run.sh", "--python", "/bin/false")

    assert done.returncode != 0
    assert "Successfully finished" not in done.stderr


def test_recipes_are_short():
    for recipe in RECIPES:
        assert len(recipe.read_text().splitlines()) <= 35, recipe


def readme_commands() -> list[list[str]]:
    recipes = (f"egs/{corpus}/README.md" for corpus in ("librispeech", "tedlium3", "own"))
    pages = [ROOT / name for name in ("README.md", *recipes, "docs/cluster.md")]
    fenced = [
        found for page in pages for found in re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), flags=re.M | re.S)
    ]
    lines = [line for language, block in fenced if not language for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line.strip()]


def n_reports(command: list[str]) -> int:
    """How many pages a recipe's command writes: the study one a condition, three unless it names them."""
    if command[0] != "egs/librispeech/run_study.sh":
        return 1
    return len((value(command, "--conditions") or "joint ctc device").split())


@pytest.mark.parametrize("command", readme_commands(), ids=" ".join)
def test_every_command_of_the_readme_parses(tmp_path, command):
    if command[0].endswith(".py"):
        done = subprocess.run(
            [sys.executable, command[0], "--help"], capture_output=True, cwd=ROOT, env=PATHS, text=True, check=False
        )
        assert all(option in done.stdout for option in command if option.startswith("--"))
    elif command[0] == "make":
        assert re.search(rf"^{command[1]}:", (ROOT / "Makefile").read_text(), flags=re.M)
    elif command[0] == "python3":
        assert (ROOT / command[1]).is_file()
    elif command[0] == "python":
        done = subprocess.run([sys.executable, *command[1:], "--help"], capture_output=True, cwd=ROOT, check=False)
        assert done.returncode == 0
    elif command[0] == "pqm":
        pqm_parser().parse_args(command[1:])
    elif command[0].startswith("tools/"):
        assert os.access(ROOT / command[0], os.X_OK)
    else:
        # What is called a corpus must be there.
        command = [str(tmp_path) if word in ("/path/to/LibriSpeech", "/path/to/speech") else word for word in command]
        done = call(ROOT / command[0], *command[1:], "--stage", "8", spy=tmp_path)
        assert done.returncode == 0, done.stderr
        assert set(stages(tmp_path)) == {"report"}
        assert len(stages(tmp_path)) == n_reports(command)
        assert all(Path(word).exists() for word in command if word.endswith(".yaml"))
        options = [word for words in calls(tmp_path) if words[2] == "report" for word in words[3:]]
        known = subprocess.run(
            [sys.executable, "-m", "pqm_plugin", "report", "--help"],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=True,
        )
        assert all(option in known.stdout for option in options if option.startswith("--"))


def test_the_shell_and_the_python_function_give_the_same_recipe():
    from pqm_plugin.__main__ import _parser, _recipe
    from pqm_plugin.stages.recipe import Recipe

    parsed = _parser().parse_args(
        [
            "adapt",
            "--base",
            "b",
            "--target-set",
            "dev",
            "--speakers",
            "1 2",
            "--speed-perturb",
            "0.9 1",
            "--command",
            "c",
        ]
    )

    assert _recipe(parsed) == Recipe(
        base="b", target_set="dev", speakers=("1", "2"), speed_perturb=(0.9, 1.0), command="c"
    )


STUDY = ROOT / "egs/librispeech/run_study.sh"
CONF = ROOT / "egs/librispeech/conf"


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "LibriSpeech"
    folder.mkdir()
    return str(folder)


def test_the_study_runs_every_condition_with_every_pair_of_speakers(tmp_path, corpus):
    arguments = ("--corpus", corpus, "--base", "b", "--conditions", "joint ctc", "--others", "2", "--stage", "5")

    done = call(STUDY, *arguments, spy=tmp_path)

    assert done.returncode == 0, done.stderr
    joint = ["adapt", "decode", "score", "study", "sensitivity", "report"]
    assert stages(tmp_path) == [*joint, *(name for name in joint if name != "sensitivity")]
    found = calls(tmp_path)
    assert value(found[0], "--systems").endswith("nf4+speaker-unsup nf4+other nf4+other2")
    assert all({"full+copy", "full+espnet-lora"} <= set(value(words, "--systems").split()) for words in found)
    assert [value(words, "--tag") for words in found] == [None] * 6 + ["ctc"] * 5
    assert [value(words, "--study") for words in found if words[2] == "study"] == [
        str(CONF / name) for name in ("study.yaml", "study_ctc.yaml")
    ]
    assert call(STUDY, "--conditions", "moon").returncode == 2


def test_systems_that_are_named_are_all_that_the_study_runs_in_every_condition(tmp_path, corpus):
    systems = "nf4 full+copy full+espnet-lora"

    done = call(STUDY, "--corpus", corpus, "--systems", systems, "--others", "0", "--stage", "8", spy=tmp_path)

    assert done.returncode == 0, done.stderr
    reported = [words for words in calls(tmp_path) if words[2] == "report"]
    assert [value(words, "--systems") for words in reported] == [systems] * 3
    assert [value(words, "--tag") for words in reported] == [None, "ctc", "device"]


def test_settings_of_the_user_are_for_the_plain_conditions_and_the_device_has_its_own(tmp_path, corpus):
    given = ("--corpus", corpus, "--stage", "8")
    call(STUDY, *given, spy=tmp_path)
    call(STUDY, *given, "--pqm_config", "mine.yaml", spy=tmp_path)
    call(STUDY, *given, "--pqm_config", "mine.yaml", "--device_config", "heard.yaml", spy=tmp_path)

    plain, device = str(CONF / "pqm.yaml"), str(CONF / "pqm_device.yaml")
    assert [value(words, "--pqm_config") for words in calls(tmp_path) if words[2] == "report"] == [
        *(plain, plain, device),
        *("mine.yaml", "mine.yaml", device),
        *("mine.yaml", "mine.yaml", "heard.yaml"),
    ]


def test_studies_can_be_left_out(tmp_path, corpus):
    leave_out = ("--study", "", "--study_ctc", "", "--sensitivity", "false")
    call(STUDY, "--corpus", corpus, "--conditions", "joint ctc", "--stage", "7", *leave_out, spy=tmp_path)
    wrong = call(STUDY, "--corpus", corpus, "--sensitivity", "ture", spy=tmp_path)

    assert stages(tmp_path) == ["score", "report", "score", "report"]
    assert wrong.returncode == 2 and "use true or false" in wrong.stderr


def test_results_of_the_study_record_its_own_command_from_which_their_speech_follows(tmp_path, corpus):
    given = ("--corpus", corpus, "--sat_mp3", "24", "--systems", "nf4 nf4+sat", "--others", "0", "--stage", "7")

    done = call(STUDY, *given, spy=tmp_path)

    assert done.returncode == 0, done.stderr
    found = calls(tmp_path)
    assert [Path(words[0]).name for words in found if words[0] != "-m"] == ["through_mp3.py", "simulate_device.py"]
    commands = {value(words, "--command") for words in found if words[0] == "-m"}
    assert [shlex.split(command) for command in commands] == [
        ["egs/librispeech/run_study.sh", "--python", str(tmp_path / "python"), *given]
    ]
