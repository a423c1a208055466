"""Stage 8 from stored results: the stored page, byte for byte."""

import shutil
from pathlib import Path

import pytest

from pqm_plugin.errors import PqmError
from pqm_plugin.files import write_json
from pqm_plugin.stages.recipe import Recipe
from pqm_plugin.stages.report import Words, everywhere, read_words, report_folder, run, write_report

STORED = Path(__file__).parents[1] / "report"
OWN = Path(__file__).parents[2] / "egs" / "demo" / "results.json"
SENSITIVITY = [
    {"kind": "attention", "parameters": 3_000_000, "bytes_share": 0.2, "dev_loss_increase": 0.0123, "dev_wer": 0.1512},
    {"kind": "depthwise", "parameters": 80_000, "bytes_share": 0.01, "dev_loss_increase": -0.0001},
]


def _report(folder, name="results.json"):
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(STORED / "results.json", folder / name)
    write_report(
        {"Joint decoding": folder / name},
        out=folder / "RESULTS.md",
        figures_dir=folder / "figures",
        words=Words(
            title="Two speakers in 4 bits",
            labels=everywhere(["invented numbers", "two speakers"]),
            notes=("Nothing may be claimed from this page.",),
        ),
        sensitivity={"asr_tiny": {"rows": SENSITIVITY}},
    )
    return folder / "RESULTS.md"


def test_the_page_made_from_stored_results_is_the_stored_page(tmp_path):
    assert _report(tmp_path).read_bytes() == (STORED / "RESULTS.md").read_bytes()


def test_a_second_run_changes_no_byte(tmp_path):
    page = _report(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}

    _report(tmp_path)

    assert page in before
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}


def test_figures_are_named_after_the_results_file_and_linked_from_the_page(tmp_path):
    page = _report(tmp_path, "results_ctc.json").read_text(encoding="utf-8")

    for name in ("wer_by_speaker_ctc.svg", "wer_by_bytes_ctc.svg"):
        assert (tmp_path / "figures" / name).is_file()
        assert f"](figures/{name})" in page


@pytest.mark.parametrize("content", ["{}", "[]", '{"systems": {}, "meta": {}}', "no json"])
def test_a_results_file_without_systems_is_named(tmp_path, content):
    (tmp_path / "results.json").write_text(content)

    with pytest.raises(PqmError, match="results.json"):
        write_report({"": tmp_path / "results.json"}, tmp_path / "R.md", tmp_path, Words(), {})

    assert not (tmp_path / "R.md").exists()


def test_no_results_at_all_is_an_error(tmp_path):
    with pytest.raises(PqmError, match="run stage 7"):
        write_report({}, tmp_path / "R.md", tmp_path, Words(), {})


def test_two_results_files_of_one_name_are_refused(tmp_path):
    paths = {"a": tmp_path / "a" / "results.json", "b": tmp_path / "b" / "results.json"}

    with pytest.raises(PqmError, match="rename one"):
        write_report(paths, tmp_path / "R.md", tmp_path, Words(), {})


def test_the_words_of_a_page_are_beside_its_results(tmp_path):
    shutil.copy(OWN, tmp_path)
    (tmp_path / "report.yaml").write_text("{title: Two voices, labels: [invented], notes: [Claim nothing.]}")

    report_folder(tmp_path, "unwanted title", ["unwanted label"])

    page = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert page.startswith("# Two voices\n")
    assert "*Invented.*" in page and "nwanted" not in page
    assert page.endswith("## Notes\n\n* Claim nothing.\n")


def test_a_word_of_the_page_that_is_none_is_named(tmp_path):
    shutil.copy(OWN, tmp_path)
    (tmp_path / "report.yaml").write_text("{lables: [invented]}")

    with pytest.raises(PqmError, match=r"report\.yaml: unknown name 'lables'; did you mean 'labels'"):
        report_folder(tmp_path)


def test_a_label_may_be_of_some_results_files_alone(tmp_path):
    (tmp_path / "report.yaml").write_text("labels: [everywhere, {label: heard alone, of: [results_heard.json]}]")

    words = read_words(tmp_path)

    assert words.labels_of("results.json") == ["everywhere"]
    assert words.labels_of("results.json", "results_heard.json") == ["everywhere", "heard alone"]


def test_goals_of_a_recipe_stand_in_its_page(tmp_path):
    shutil.copy(OWN, tmp_path)
    (tmp_path / "report.yaml").write_text(
        "goals: [{what: seven times, of: [results.json], measure: times_smaller, system: nf4, goal: 7}]"
    )

    report_folder(tmp_path)

    page = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert "## Goals\n\n| goal |" in page and "| seven times | `results.json` | 7." in page


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("labels: [{lable: x}]", r"report\.yaml: labels: unknown name 'lable'; did you mean 'label'"),
        ("goals: [{what: x, measure: beauty}]", r"report\.yaml: goals: goal 'x': measure 'beauty'"),
        ("goals: [3]", r"report\.yaml: goals: expected names and values"),
    ],
)
def test_a_label_or_goal_that_is_none_is_named(tmp_path, text, message):
    (tmp_path / "report.yaml").write_text(text)

    with pytest.raises(PqmError, match=message):
        read_words(tmp_path)


@pytest.mark.parametrize(("there", "expected"), [("asr_tiny", []), ("whisper", ["sensitivity_ctc.json"])])
def test_conditions_of_one_base_share_its_sensitivity_and_another_base_keeps_its_own(tmp_path, there, expected):
    recipe = Recipe(base="asr_tiny", expdir=tmp_path / "exp", report=tmp_path / "page", tag="ctc")
    write_json(recipe.packed_dir / "sensitivity.json", {"base": "asr_tiny", "rows": SENSITIVITY})
    shutil.copy(OWN, recipe.packed_dir / "results_ctc.json")
    write_json(tmp_path / "page" / "sensitivity.json", {"base": there, "rows": SENSITIVITY})

    run(recipe)

    assert sorted(path.name for path in (tmp_path / "page").glob("sensitivity_*.json")) == expected
