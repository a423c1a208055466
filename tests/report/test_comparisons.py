"""What comparisons are said to show, and no more."""

import pytest

from pqm_plugin.report.gains import (
    COMPARISONS_NOTE,
    comparison,
    comparison_sentence,
    comparisons_table,
    headlines,
)


def test_a_comparison_shows_the_reduction_its_interval_and_its_probability(results):
    assert "| `nf4+speaker` | `nf4` | 33.3 | [25.0, 37.5] | 1.000 | 33.3 | [25.0, 37.5] |\n" in comparisons_table(
        results
    )


@pytest.mark.parametrize(
    ("reduction", "ci95", "sentence"),
    [
        (0.123, [0.04, 0.2], "12.3 % fewer word errors, 95 % interval from 4.0 % fewer to 20.0 % fewer."),
        (-0.1, [-0.2, -0.05], "10.0 % more word errors, 95 % interval from 20.0 % more to 5.0 % more."),
        (
            0.05,
            [-0.02, 0.1],
            "5.0 % fewer word errors, 95 % interval from 2.0 % more to 10.0 % fewer. "
            "The interval includes zero: no difference is shown.",
        ),
        (
            0.05,
            [None, 0.1],
            "5.0 % fewer word errors, 95 % interval from no bound to 10.0 % fewer. "
            "The interval includes zero: no difference is shown.",
        ),
        (0.0, [0.0, 0.0], "as many word errors, in every resample."),
        (None, [None, None], "`b` makes no error, so there is nothing to reduce."),
    ],
)
def test_a_sentence_says_what_is_shown_and_no_more(reduction, ci95, sentence):
    row = {"system": "a", "against": "b", "relative_wer_reduction": reduction, "ci95": ci95, "p_improvement": 0.9}

    assert comparison_sentence(row) == f"`a` against `b`: {sentence}"


def compared(ci95, counts=(0, 0, None), normalized=None, **changed):
    """A row with its reduction in the middle of its interval; `counts`: speakers helped, harmed, and the sign test."""
    row = {"system": "a", "against": "b", "relative_wer_reduction": sum(ci95) / 2, "ci95": ci95, "p_improvement": 0.5}
    row["speakers"] = {"helped": counts[0], "harmed": counts[1], "unchanged": 3, "sign_test_p": counts[2]}
    if normalized:
        row["normalized"] = {"relative_wer_reduction": sum(normalized) / 2, "ci95": normalized, "p_improvement": 0.5}
    return row | changed


def test_where_the_sign_test_sees_what_the_interval_does_not_it_is_named():
    said = comparison_sentence(compared([-0.08, 0.02], (0, 7, 0.0156)))

    assert said.endswith(
        "The interval includes zero, but the sign test over speakers shows a difference: 0 helped, 7 harmed, p = 0.016."
    )
    assert "no difference is shown" not in said


@pytest.mark.parametrize("counts", [(1, 6, 0.125), (0, 0, None)])
def test_a_sign_test_that_shows_nothing_is_not_named(counts):
    assert comparison_sentence(compared([-0.08, 0.02], counts)).endswith("includes zero: no difference is shown.")


def test_a_gain_that_is_gone_after_normalisation_is_not_left_standing_alone():
    said = comparison_sentence(compared([0.04, 0.2], normalized=[-0.02, 0.13]))

    assert said.endswith(
        "Normalised 5.5 % fewer, from 2.0 % more to 13.0 % fewer, which includes zero: beside the text format no "
        "difference is shown."
    )


def test_a_difference_that_only_normalisation_shows_is_named_too():
    said = comparison_sentence(compared([-0.11, 0.01], normalized=[-0.12, -0.005]))

    assert "no difference is shown. Normalised 6.2 % more, from 12.0 % more to 0.5 % more, which excludes zero." in said


def test_where_both_agree_about_zero_the_normalised_result_is_left_to_the_table():
    assert "Normalised" not in comparison_sentence(compared([0.04, 0.2], normalized=[0.02, 0.13]))


def test_the_table_says_of_how_many_a_mean_is_and_the_note_what_so_many_comparisons_are_worth():
    row = compared([0.1, 0.3], normalized=[0.1, 0.3], against="nf4+others", mean_of=["nf4+other", "nf4+other2"])

    assert "| `a` | `nf4+others`, mean of 2 | 20.0 | [10.0, 30.0] |" in comparisons_table({"comparisons": [row]})
    assert "`a` against `nf4+others`, mean of 2: 20.0 % fewer" in comparison_sentence(row)
    assert "corrected for so many comparisons" in COMPARISONS_NOTE


def test_the_headlines_have_the_mean_of_others_instead_of_one_of_them():
    one = compared([0.1, 0.3], system="nf4+speaker", against="nf4+other")
    mean = one | {"against": "nf4+others", "mean_of": ["nf4+other", "nf4+other2"]}
    format_only = compared([0.1, 0.3], system="full+speaker", against="full")

    assert len(headlines({"comparisons": [one]})) == 1
    [full, own] = headlines({"comparisons": [format_only, one, mean]})
    assert full.startswith("`full+speaker` against `full`:")
    assert "mean of 2" in own


def test_the_mean_of_one_other_is_that_other_and_of_several_what_was_compared():
    alone = {"system": "nf4+speaker", "against": "nf4+other"}
    pooled = {"system": "nf4+speaker", "against": "nf4+others"}

    one = {"systems": ["nf4+speaker", "nf4+other"], "comparisons": [alone]}
    assert comparison(one, "nf4+speaker", "nf4+others") == alone
    two = {"systems": ["nf4+other", "nf4+other2"], "comparisons": [alone, pooled]}
    assert comparison(two, "nf4+speaker", "nf4+others") == pooled
    assert comparison({**two, "comparisons": [alone]}, "nf4+speaker", "nf4+others") is None
