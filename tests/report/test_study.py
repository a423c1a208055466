"""A study's tables, from numbers that can be checked by hand."""

import copy

import pytest

from pqm_plugin.report.page import Section, render_report
from pqm_plugin.report.study import (
    all_name,
    crossing_sentence,
    made_sentence,
    minutes_figure,
    minutes_points,
    reference,
    section_table,
    settings_figure,
    study_parts,
)
from tests.report.conftest import entry


def test_seeds_show_their_mean_and_range_with_the_recipes_own(systems, study):
    lines = section_table(study, "seeds", {"systems": systems}).splitlines()

    assert lines[-2].startswith("| mean over seeds | – | 9.20 |")
    assert lines[-1].startswith("| lowest to highest | – | 9.00 to 9.40 |")


def test_other_sections_say_what_differs_and_how_small_it_is(systems, study):
    lines = section_table(study, "bits", {"systems": systems}).splitlines()

    assert lines[-1] == '| fp4 | `{"quantize": {"quant_type": "fp4"}}` | 16.00 | [15.00, 17.00] | 0.00 | 0.00 | 6.36 |'


def test_cells_are_compared_with_what_the_recipe_gave_when_they_were_made(systems, study):
    now = {
        "systems": systems | {"nf4": entry(190, 90, 0)},
        "meta": {"commit": "b2", "date": "tomorrow", "seed": 0, "hardware": "two cores"},
        "comparisons": [],
    }
    made = {"commit": "a1", "date": "today", "seed": 0, "hardware": "two cores"}
    for row in study["cells"]:
        row["meta"] = made
    study["reference"] = {"systems": systems, "meta": made}

    page = "\n".join(study_parts(now, study, "label", {}))

    assert reference({"cells": []}, now) is now
    # The row of the recipe has the model and the errors of that time, 14.00 %, and not those of now, 19.00 %.
    assert "| as the recipe has it | – | 14.00 |" in page and "19.00" not in page.partition("### Study: bits")[2]
    assert (
        page.count("Cells of commit a1, today; seed 0; two cores. They are of another run than the tables above") == 3
    )
    assert "Another processor" not in page
    assert made_sentence(study, "bits", now | {"meta": made}).endswith("two cores.")


def test_a_seed_that_was_run_on_two_processors_is_told_of_both(systems, study):
    made = {"commit": "a1", "date": "today", "seed": 0, "hardware": "two cores"}
    for row in study["cells"]:
        row["meta"] = made
    study["reference"] = {"systems": systems, "meta": made}
    now = {"systems": systems | {"nf4+speaker": entry(95, 90, 10)}, "comparisons": []}
    now["meta"] = {"commit": "b2", "date": "tomorrow", "seed": 0, "hardware": "other cores"}

    said, bits = (made_sentence(study, section, now) for section in ("seeds", "bits"))

    assert "In the tables above, on another processor, seed 0 has" in said
    assert "`nf4+speaker` 9.50 %" in said
    assert "another processor" not in bits


def test_a_study_that_is_not_whole_says_so_beside_every_section(results, study):
    said = "\n".join(study_parts(results, study, "label", {}, "a1b2"))

    assert said.count("**The study is of commit a1b2: not every cell") == 3
    assert "**" not in "\n".join(study_parts(results, study, "label", {})).replace("**all**", "")


def test_the_page_shows_the_study_after_the_tables_of_its_condition(results, systems, study, tmp_path):
    stored = copy.deepcopy(results)
    stored["systems"] |= {key: {**stored["systems"]["nf4"], **value} for key, value in systems.items()}
    drawn = {"minutes": tmp_path / "minutes.svg", "settings": tmp_path / "settings.svg"}
    minutes_figure(stored, study, drawn["minutes"], "Lossy.")
    settings_figure(stored, study, drawn["settings"], "Lossy.")

    links = {name: name for name in drawn}
    section = Section("Joint", "results.json", stored, "a.svg", "b.svg", ["lossy"], study, links)
    page = render_report("T", [section])

    for heading in ("What the gain is made of", "Study: seeds", "Study: minutes", "Study: bits"):
        assert f"### {heading}\n" in page
    assert page.count("*Lossy.*") == page.count("| :-- |")
    assert all(path.read_text().startswith("<?xml") for path in drawn.values())


HEARD = {"meta": {"adapt_minutes": {"ann": 2.0, "bob": 5.0}}}


def test_minutes_run_from_none_to_all(systems, study):
    lines = section_table(study, "minutes", {"systems": systems}).splitlines()

    assert [line.split(" | ")[2] for line in lines[2:]] == ["12.00", "10.50", "9.60", "9.00"]
    assert crossing_sentence(study, {"systems": systems}) == (
        "It is below `full` (10.00 %) from 2 minutes on, of those measured."
    )


def test_all_the_speech_there_is_is_drawn_where_it_lies_and_named_in_minutes(systems, study):
    results = {"systems": systems, **HEARD}

    assert [point[0] for point in minutes_points(study, results)] == [0, 0.5, 2, 3.5]
    assert minutes_points(study, results)[-1][1] == 0.09
    assert "| all: 3.5 minutes on average, 2.0 to 5.0 |" in section_table(study, "minutes", results)
    assert all_name({"systems": systems}) == "all"
    assert [point[0] for point in minutes_points(study, {"systems": systems})] == [0, 0.5, 2]


def test_a_study_that_does_not_tell_its_minutes_has_those_of_the_results(systems, study):
    study["reference"] = {"systems": systems, "meta": {"commit": "a1"}}

    own = reference(study, {"systems": {}, **HEARD})

    assert own["meta"] == {"adapt_minutes": {"ann": 2.0, "bob": 5.0}, "commit": "a1"}
    assert own["systems"] is systems


@pytest.mark.parametrize(
    ("full", "sentence"),
    [
        (130, "The speaker-independent adapter alone, 0 minutes, is below `full` (13.00 %) already, and so is every"),
        (95, "It is below `full` (9.50 %) with all there is."),
        (90, "No amount of speech here brings it below `full` (9.00 %)."),
    ],
)
def test_what_the_speaker_independent_adapter_does_is_not_credited_to_the_speaker(systems, study, full, sentence):
    assert crossing_sentence(study, {"systems": systems | {"full": entry(full)}}).startswith(sentence)


def test_the_fair_full_precision_has_a_crossing_of_its_own(systems, study):
    said = crossing_sentence(study, {"systems": systems | {"full+sat": entry(80)}})

    assert said.endswith("No amount of speech here brings it below `full+sat` (8.00 %).")


def test_a_crossing_that_does_not_last_is_no_crossing(systems, study):
    study["cells"][1]["systems"]["nf4+speaker"] = entry(94)
    study["cells"][2]["systems"]["nf4+speaker"] = entry(104)

    assert "with 0.5 minutes, all there is alone." in crossing_sentence(study, {"systems": systems})
