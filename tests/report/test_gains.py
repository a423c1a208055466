"""What a gain is made of, goals and the summary, from numbers that can be checked by hand."""

import copy

import pytest

from pqm_plugin.report.gains import (
    Goal,
    gain_parts,
    gain_table,
    goals_parts,
    own_sentence,
    split_table,
    summary_table,
    unsupervised_sentence,
)
from tests.report.conftest import entry


def test_the_gain_over_four_bits_is_split_into_any_adapters_and_ones_own(systems):
    lines = gain_table({"systems": systems}).splitlines()

    # 140 errors: 20 go with SAT (40 % of 50), 5 more with the mean of the others (10 %), 25 with one's own (50 %).
    assert lines[3] == "| speaker-independent LoRA | 12.00 | 14.3 | 40.0 |"
    assert lines[4] == "| another speaker's LoRA, mean of 2 | 11.50 | 4.2 | 10.0 |"
    assert lines[5] == "| one's own LoRA | 9.00 | 21.7 | 50.0 |"


def test_without_a_control_no_gain_is_split(systems):
    del systems["nf4+other"], systems["nf4+other2"]

    assert gain_table({"systems": systems}) == ""


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
    # Of the 50 the speaker-independent adapter alone takes 20.
    assert (
        "82 % of what they gain over 4 bits without adapter (40 % are left with the speaker-independent adapter" in said
    )
    assert "none of them); 70 % of what they gain over the speaker-independent adapter." in said


def test_of_a_gain_that_is_not_shown_no_share_is_given(systems):
    said = unsupervised_sentence(compared(systems, nf4=0.1, nf4_sat=-0.1))

    assert "82 % of" in said
    assert "no share of what they gain over the speaker-independent adapter" in said
    assert unsupervised_sentence({"systems": {"nf4": entry(140)}, "comparisons": []}) == ""


def test_the_parts_of_the_gain_have_their_intervals_where_stage_7_gave_them(systems):
    parts = {
        part: {"part": part, "of_errors": share, "ci95": [share - 0.1, share + 0.1], "p_improvement": 0.9}
        for part, share in (("anyone", 0.3), ("own", 0.05), ("whole", 0.35))
    }
    split = [row | {"normalized": row | {"of_errors": 0.02}} for row in parts.values()]
    results = {"systems": systems, "comparisons": []}

    lines = split_table(results | {"gain_split": split}).splitlines()

    assert lines[3] == "| only one's own LoRA | 5.0 | [-5.0, 15.0] | 0.900 | 2.0 | [-5.0, 15.0] |"
    assert split_table(results) == ""
    assert gain_parts(results | {"gain_split": split}, "*Lossy.*").count("*Lossy.*") == 2


def test_what_is_the_speakers_own_is_said_against_the_mean_of_all_others(systems):
    row = {"system": "nf4+speaker", "against": "nf4+others", "mean_of": ["nf4+other", "nf4+other2"]}
    row |= {"relative_wer_reduction": 0.05, "ci95": [-0.02, 0.1], "p_improvement": 0.9}

    said = own_sentence({"systems": systems, "comparisons": [row]})

    assert said.startswith("The speaker's own: `nf4+speaker` against `nf4+others`, mean of 2: 5.0 % fewer")
    assert said.endswith("no difference is shown.")
    assert own_sentence({"systems": systems, "comparisons": []}) == ""

    row["speakers"] = {"helped": 6, "harmed": 3, "unchanged": 1, "sign_test_p": 0.508}
    row["normalized"] = {key: row[key] for key in ("relative_wer_reduction", "ci95", "p_improvement", "speakers")}
    assert own_sentence({"systems": systems, "comparisons": [row]}).endswith(
        "no difference is shown. Speakers: 6 helped, 3 harmed, 1 unchanged, sign test p = 0.508. Normalised 5.0 % "
        "fewer, from 2.0 % more to 10.0 % fewer, which includes zero; speakers: 6 helped, 3 harmed, 1 unchanged, "
        "sign test p = 0.508."
    )


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


def test_a_goal_can_be_of_normalised_words_and_says_so(results):
    [found] = [one for one in results["comparisons"] if (one["system"], one["against"]) == ("nf4+speaker", "nf4")]
    found["normalized"] = found["normalized"] | {"relative_wer_reduction": 0.4, "ci95": [0.1, 0.5]}
    goal = Goal("fewer", ("results.json",), against="nf4", goal=35, normalized=True)

    assert row(goal, results)[:1] + row(goal, results)[2:] == [
        "fewer, normalised",
        "40.0",
        "[10.0, 50.0]",
        ">= 35",
        "yes",
    ]


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


def results(wer, systems=("full", "nf4+other", "nf4+other2")):
    entry = {"wer": wer, "wer_ci95": [wer / 2, 2 * wer], "model_bytes": 8_000_000, "adapter_bytes": 500_000}
    gain = {"relative_wer_reduction": 0.25, "ci95": [0.1, 0.4]}
    rows = [{"system": "nf4+other", "against": "full", **gain, "normalized": gain | {"ci95": [-0.1, 0.3]}}]
    return {"systems": dict.fromkeys(systems, entry), "comparisons": rows}


def test_conditions_stand_side_by_side_and_pairings_of_other_speakers_once():
    page = summary_table({"plain": results(0.1), "noisy": results(0.3)})

    heads, _, *rows = page.strip().splitlines()
    assert "WER %, plain" in heads and "WER %, noisy" in heads
    assert [row.split("|")[1].strip() for row in rows] == ["`full`", "`nf4+other`"]
    assert "10.00 | 25.0 [10.0, 40.0] | 25.0 [-10.0, 30.0] | 30.00" in rows[1]
    assert " 8.5 | 0.9 |" in rows[1]


def test_a_condition_that_lacks_a_system_has_dashes_for_it():
    page = summary_table({"plain": results(0.1), "noisy": results(0.3, systems=("full",))})

    assert page.strip().splitlines()[-1].endswith("| – | – | – |")
