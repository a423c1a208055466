"""Transcripts meet the model's alphabet."""

import string

import pytest

from pqm_plugin.corpus.text import fit_text
from pqm_plugin.errors import PqmError

LOWER = set(string.ascii_lowercase) | {"'"}


def test_upper_case_text_becomes_the_lower_case_that_the_model_spells() -> None:
    fit = fit_text(["DON'T STOP"], LOWER)

    assert fit.case == "lower"
    assert fit.apply("DON'T  STOP ") == "don't stop"
    assert fit.replaced == {} and fit.unspellable == {}


def test_lower_case_text_becomes_upper_case_for_an_upper_case_model() -> None:
    fit = fit_text(["Straße"], set(string.ascii_uppercase))

    assert fit.case == "upper"
    assert fit.apply("straße") == "STRASSE"


def test_text_that_fits_stays_as_it_is() -> None:
    assert fit_text(["Hello"], set(string.ascii_letters)).case == "as is"


def test_curly_quotes_dashes_and_accents_become_what_can_be_spelled() -> None:
    fit = fit_text(["don’t “café” – well-known…"], LOWER)

    assert fit.apply("don’t “café” – well-known…") == "don't cafe well known"
    assert fit.replaced == {"’": "'", "“": " ", "”": " ", "é": "e", "–": " ", "-": " ", "…": " "}
    assert fit.unspellable == {}


def test_an_accent_that_the_model_knows_is_kept() -> None:
    assert fit_text(["café"], LOWER | {"é"}).apply("cafe\u0301") == "café"


def test_a_dash_that_the_model_knows_takes_the_other_dashes() -> None:
    assert fit_text(["a—b"], LOWER | {"-"}).apply("a—b") == "a-b"


def test_digits_that_cannot_be_spelled_stay_and_are_counted() -> None:
    fit = fit_text(["CHAPTER 11", "PAGE 12"], LOWER)

    assert fit.apply("CHAPTER 11") == "chapter 11"
    assert fit.unspellable == {"1": 3, "2": 1}
    assert "'1' 3 times, '2' 1 times" in fit.report() and "write digits as words" in fit.report()


def test_letters_of_another_alphabet_are_counted_and_variants_of_digits_are_not_invented() -> None:
    fit = fit_text(["да"], LOWER)

    assert fit.unspellable == {"а": 1, "д": 1}


def test_signs_without_width_vanish_within_words() -> None:
    assert fit_text(["x"], LOWER).apply("co\u00adoperate ze\u200bro") == "cooperate zero"


def test_text_that_was_not_there_at_fitting_is_treated_by_the_same_rules() -> None:
    assert fit_text(["A"], LOWER).apply("É’S") == "e's"


def test_subword_tokens_can_be_given_as_they_are() -> None:
    assert fit_text(["THE"], ["▁the", "t", "h", "e"]).apply("THE") == "the"


def test_a_model_without_symbols_is_an_error() -> None:
    with pytest.raises(PqmError, match="no symbols"):
        fit_text(["A"], "")
