"""A study's tables, from numbers that can be checked by hand."""

import copy

import pytest

from pqm_plugin.report.page import Section, render_report
from pqm_plugin.report.study import (
    crossing_sentence,
    gain_table,
    made_sentence,
    reference,
    section_table,
    study_parts,
    unsupervised_sentence,
)
from pqm_plugin.report.study_figures import minutes_figure, settings_figure


def entry(errors, size_bytes=100, adapter_bytes=10):
    wer = errors / 1000
    sizes = {"model_bytes": size_bytes, "adapter_bytes": adapter_bytes, "adapter_fraction": 0.01}
    return {"errors": errors, "words": 1000, "wer": wer, "wer_ci95": [wer - 0.01, wer + 0.01], **sizes}


def cell(section, name, changes, systems):
    return {"section": section, "cell": name, "changes": changes, "systems": systems}


@pytest.fixture
def systems():
    return {
        "full": entry(100, 700, 0),
        "nf4": entry(140, 100, 0),
        "nf4+sat": entry(120),
        "nf4+speaker": entry(90),
        "nf4+other": entry(110),
        "nf4+other2": entry(120),
        "nf4+speaker-unsup": entry(99),
    }


@pytest.fixture
def study():
    return {
        "set": "test",
        "cells": [
            cell("seeds", "1", {"seed": 1}, {"nf4+speaker": entry(94)}),
            cell("minutes", "half", {"adapt_minutes": 0.5}, {"nf4+speaker": entry(105)}),
            cell("minutes", "two", {"adapt_minutes": 2}, {"nf4+speaker": entry(96)}),
            cell("bits", "fp4", {"quantize": {"quant_type": "fp4"}}, {"nf4": entry(160)}),
        ],
    }


def test_the_gain_over_four_bits_is_split_into_any_adapters_and_ones_own(systems):
    lines = gain_table({"systems": systems}).splitlines()

    # 140 errors: 20 go with SAT (40 % of 50), 5 more with the mean of the others (10 %), 25 with one's own (50 %).
    assert lines[3] == "| speaker-independent LoRA | 12.00 | 14.3 | 40.0 |"
    assert lines[4] == "| another speaker's LoRA, mean of 2 | 11.50 | 4.2 | 10.0 |"
    assert lines[5] == "| one's own LoRA | 9.00 | 21.7 | 50.0 |"


def test_without_a_control_no_gain_is_split(systems):
    del systems["nf4+other"], systems["nf4+other2"]

    assert gain_table({"systems": systems}) == ""


def test_minutes_run_from_none_to_all(systems, study):
    lines = section_table(study, "minutes", {"systems": systems}).splitlines()

    assert [line.split(" | ")[2] for line in lines[2:]] == ["12.00", "10.50", "9.60", "9.00"]
    assert crossing_sentence(study, {"systems": systems}).startswith(
        "It is below full precision (10.00 %) from 2 minutes on"
    )


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
        "meta": {"commit": "b2", "date": "tomorrow"},
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
    assert page.count("Cells of commit a1, today; seed 0; two cores. They were made before the tables above") == 3
    assert made_sentence(study, "bits", now | {"meta": made}).endswith("two cores.")


def compared(systems, **lower_ends):
    """Results whose comparisons with the speaker's own adapter have these lower ends of their intervals."""
    rows = [
        {"system": "nf4+speaker", "against": against.replace("_", "+"), "ci95": [low, 0.5]}
        for against, low in lower_ends.items()
    ]
    return {"systems": systems, "comparisons": rows}


def test_the_shares_that_are_kept_without_transcripts_are_said(systems):
    said = unsupervised_sentence(compared(systems, nf4=0.1, nf4_sat=0.1))

    # Transcripts take 50 of 140 errors away and 30 of 120, one's own words 41 and 21.
    assert "82 % of what they gain over 4 bits without adapter; 70 % of what they gain over the speaker-ind" in said


def test_of_a_gain_that_is_not_shown_no_share_is_given(systems):
    said = unsupervised_sentence(compared(systems, nf4=0.1, nf4_sat=-0.1))

    assert "82 % of" in said
    assert "no share of what they gain over the speaker-independent adapter" in said
    assert unsupervised_sentence({"systems": {"nf4": entry(140)}, "comparisons": []}) == ""


def test_the_page_shows_the_study_after_the_tables_of_its_condition(results, systems, study, tmp_path):
    stored = copy.deepcopy(results)
    stored["systems"] |= {key: {**stored["systems"]["nf4"], **value} for key, value in systems.items()}
    drawn = {"minutes": tmp_path / "minutes.svg", "settings": tmp_path / "settings.svg"}
    minutes_figure(stored, study, drawn["minutes"], "Lossy.")
    settings_figure(stored, study, drawn["settings"], "Lossy.")

    section = Section("Joint", "results.json", stored, "a.svg", "b.svg", study, {name: name for name in drawn})
    page = render_report("T", [section], ["lossy"])

    for heading in ("What the gain is made of", "Study: seeds", "Study: minutes", "Study: bits"):
        assert f"### {heading}\n" in page
    assert page.count("*Lossy.*") == page.count("| :-- |")
    assert all(path.read_text().startswith("<?xml") for path in drawn.values())
