"""What is committed as results was written by stages 7 and 8, and is whole."""

import shutil
import sys
from pathlib import Path

import pytest

from pqm_plugin.files import read_json
from pqm_plugin.stages.report import report_folder

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
RESULTS = sorted(ROOT.glob("egs/*/results*.json"))
SYSTEMS = ["full", "int8", "nf4", "nf4+sat", "nf4+speaker", "nf4+other"]


@pytest.mark.parametrize("recipe", sorted({path.parent for path in RESULTS}), ids=lambda path: path.name)
def test_the_page_of_a_recipe_is_what_stage_8_makes_of_the_stored_results(recipe, tmp_path):
    for path in [*recipe.glob("*.json"), recipe / "report.yaml"]:
        shutil.copy(path, tmp_path)

    report_folder(tmp_path)

    assert (tmp_path / "RESULTS.md").read_bytes() == (recipe / "RESULTS.md").read_bytes()
    assert {path.name for path in tmp_path.glob("figures/*")} == {path.name for path in recipe.glob("figures/*")}


def test_the_first_table_of_the_readme_is_drawn_from_the_stored_results():
    from readme_table import drawn

    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    assert drawn(readme) == readme
    assert "`nf4+speaker`" in readme.partition("## Two commands")[0]


@pytest.mark.parametrize(
    ("path", "stock"),
    [(f"{recipe}/results.json", "espnet") for recipe in ("demo", "librispeech", "own", "tedlium3")]
    + [("demo/results_whisper.json", "stock")],
)
def test_all_seven_systems_are_there_and_the_float_ones_agree(path, stock):
    results = read_json(ROOT / "egs" / path)

    systems = results["systems"]
    known = [system for system in systems if system in (stock, *SYSTEMS)]
    assert known == [stock, *SYSTEMS]
    assert systems["full"]["errors"] == systems[stock]["errors"]
    assert 0 < systems["nf4+speaker"]["adapter_fraction"] < 0.01
    assert {"corpus", "base", "base_sha256", "commit", "command", "seed", "hardware", "date", "versions"} <= set(
        results["meta"]
    )


def test_real_numbers_say_beside_them_what_may_be_claimed():
    page = (ROOT / "egs/librispeech/RESULTS.md").read_text(encoding="utf-8")

    assert page.count("Lossy dev-clean") >= page.count("\n## ") - 3
    assert "no gain is claimed on those readers" in page
    own = (ROOT / "egs/own/RESULTS.md").read_text(encoding="utf-8")
    assert "closed vocabulary" in own and "nf4+other" in own
    assert "Overlap: of" in own
    assert "Synthetic" in (ROOT / "egs/demo/RESULTS.md").read_text(encoding="utf-8")
    assert read_json(ROOT / "egs/librispeech/results.json")["systems"]["nf4"]["model_bytes"] * 7 < 62278339


def test_the_talks_are_said_to_be_a_stand_in_wherever_a_number_stands():
    page = (ROOT / "egs/tedlium3/RESULTS.md").read_text(encoding="utf-8")

    assert "stand-in" in page.splitlines()[0]
    assert page.count("Not TED-LIUM 3") >= page.count("\n### ") - 1 > 0
