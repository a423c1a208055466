"""Goals are a recipe's own, and met or missed by what is measured."""

import copy

import pytest

from pqm_plugin.report.goals import Goal, goals_parts


def row(goal, results, name="results.json"):
    [line] = goals_parts([goal], {name: results}, "*Lossy.*")[2].splitlines()[2:]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_reduction_is_held_against_its_bound_and_shows_its_interval(results):
    # 36 errors by nf4 and 24 by nf4+speaker: a third fewer.
    goal = Goal("fewer", ("results.json",), "reduction", "nf4+speaker", "nf4", ">=", 31)

    assert row(goal, results) == ["fewer", "`results.json`", "33.3", "[25.0, 37.5]", ">= 31", "yes"]
    assert row(Goal("fewer", ("results.json",), against="nf4", goal=35), results)[-1] == "no"


def test_a_gain_counts_as_shown_by_the_lower_end_of_its_interval(results):
    [found] = [one for one in results["comparisons"] if (one["system"], one["against"]) == ("nf4+speaker", "nf4")]
    goal = Goal("shown", ("results.json",), "reduction_low", against="nf4", sign=">")
    assert row(goal, results)[2:] == ["33.3", "[25.0, 37.5]", "> 0, lower end", "yes"]

    found["ci95"] = [-0.01, 0.6]

    assert row(goal, results)[2:] == ["33.3", "[-1.0, 60.0]", "> 0, lower end", "no"]


def test_sizes_and_shares_and_losses_are_measured(results):
    # 60 MB over 8 and over 8.5 with the adapter; 36 errors for 30.
    assert row(Goal("", ("results.json",), "times_smaller", goal=7), results)[2] == "7.06"
    assert row(Goal("", ("results.json",), "adapter_share", sign="<=", goal=1), results)[2:] == [
        "0.96",
        "–",
        "<= 1",
        "yes",
    ]
    assert row(Goal("", ("results.json",), "increase", "nf4", sign="<", goal=10), results)[2:3] == ["20.0"]


def test_what_is_left_without_transcripts_stands_beside_what_needs_no_speech(systems):
    results = {
        "systems": systems,
        "comparisons": [
            {"system": "nf4+speaker", "against": "nf4", "relative_wer_reduction": 0.36, "ci95": [0.1, 0.5]},
        ],
    }
    goal = Goal("kept", ("results.json",), "kept", "nf4+speaker-unsup", "nf4", goal=70)
    # Of 50 errors that transcripts take away 41 and 20.
    assert row(goal, results)[2:] == ["82.0 (`nf4+sat` 40.0)", "–", ">= 70", "yes"]

    results["comparisons"][0]["ci95"] = [-0.1, 0.5]

    assert row(goal, results)[2:] == ["–", "–", ">= 70", "–"]


def test_every_file_of_a_goal_has_a_row_and_what_was_not_measured_a_dash(results):
    other = copy.deepcopy(results)
    del other["systems"]["nf4+speaker"]
    goal = Goal("smaller", ("results.json", "results_ctc.json", "results_x.json"), "times_smaller", goal=7)

    lines = goals_parts([goal], {"results.json": results, "results_ctc.json": other}, "")[2].splitlines()

    assert [line.split(" | ")[-1] for line in lines[2:]] == ["yes |", "– |", "– |"]


def test_without_goals_there_is_no_table_of_them(results):
    assert goals_parts([], {"results.json": results}, "*Lossy.*") == []


@pytest.mark.parametrize("wrong", [{"measure": "beauty"}, {"sign": "="}])
def test_a_measure_or_sign_that_is_none_is_named(wrong):
    with pytest.raises(ValueError, match=r"measure is one of reduction, .*, sign one of >= >"):
        Goal("g", **wrong)
