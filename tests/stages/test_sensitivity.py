"""What each kind of layer pays for 4 bits: measured once, and told with the circumstances."""

import dataclasses

import pytest

from pqm_plugin.files import read_json, write_json
from pqm_plugin.stages.sensitivity import RECORD
from tests.stages.conftest import one_family


@pytest.mark.slow
def test_the_table_is_measured_once_goes_on_where_it_was_cut_off_and_says_how_it_was_made(recipe, run, caplog):
    run("data", "base", "sensitivity")
    record = recipe.packed_dir / RECORD
    whole = read_json(record)

    caplog.clear()
    run("sensitivity")
    assert read_json(record) == whole
    write_json(record, {**whole, "rows": whole["rows"][:-1]})
    run("sensitivity")

    assert read_json(record)["rows"] == whole["rows"]
    assert caplog.text.count("dev_loss_increase") == 1
    assert whole["rows"][0]["setting"] == "full precision"
    assert {"commit", "command", "seed", "hardware", "date", "base_sha256", "set", "split"} <= set(whole["meta"])
    assert (whole["meta"]["command"], whole["meta"]["split"]) == ("test", "dev")


@pytest.mark.slow
@one_family
def test_a_table_from_before_that_was_told_is_not_measured_again_and_is_shown(recipe, run, caplog):
    recipe = dataclasses.replace(recipe, systems=("full", "nf4"))
    run("data", "base", "sensitivity", of=recipe)
    run("quantize", "decode", "score", of=recipe)
    record = recipe.packed_dir / RECORD
    before = {key: value for key, value in read_json(record).items() if key != "meta"}
    write_json(record, before)

    caplog.clear()
    run("sensitivity", "report", of=recipe)

    assert read_json(record) == before
    assert "dev_loss_increase" not in caplog.text
    assert "What each kind of layer costs in 4 bits" in (recipe.packed_dir / "RESULTS.md").read_text()
