"""Errors that can be counted by hand."""

import jiwer
import pytest

from pqm_plugin.errors import PqmError
from pqm_plugin.metrics.wer import ErrorCounts, Step, align, as_characters, counts, counts_of, total


def test_one_substitution_one_deletion_and_one_insertion_are_told_apart():
    counted = counts("the cat sat on a red mat", "the hat sat on red mat today")

    assert counted == ErrorCounts(words=7, substitutions=1, deletions=1, insertions=1)
    assert counted.errors == 3
    assert counted.correct == 5
    assert counted.rate == 3 / 7


def test_words_against_an_empty_reference_are_insertions():
    assert counts("", "two words") == ErrorCounts(words=0, insertions=2)


def test_an_empty_hypothesis_deletes_every_word():
    assert counts("two words", "") == ErrorCounts(words=2, deletions=2)


def test_two_empty_texts_make_no_error():
    assert counts("", "") == ErrorCounts()


def test_blanks_of_any_kind_and_number_part_words_and_nothing_else():
    assert counts("a  b\tc\n", " a b c").errors == 0


def test_case_matters():
    assert counts("Rose", "rose").substitutions == 1


def test_each_utterance_keeps_its_own_counts():
    counted = counts_of(["a b", "", "c"], ["a", "x", "c"])

    assert counted == [ErrorCounts(2, 0, 1, 0), ErrorCounts(0, 0, 0, 1), ErrorCounts(1, 0, 0, 0)]


def test_the_total_of_a_set_pools_words_and_errors():
    summed = total(counts_of(["a b", "", "c"], ["a", "x", "c"]), "decode_full/test")

    assert (summed.words, summed.errors) == (3, 2)


def test_a_set_without_a_reference_word_is_an_error_that_names_it():
    with pytest.raises(PqmError, match="decode_full/test.*2 references hold no word"):
        total(counts_of(["", ""], ["a", ""]), "decode_full/test")


def test_no_utterances_align_to_nothing():
    assert align([], []) == []


def test_an_alignment_has_a_column_for_every_word_of_either_side():
    [alignment] = align(["a b c"], ["a x c d"])

    assert alignment == (Step("C", "a", "a"), Step("S", "b", "x"), Step("C", "c", "c"), Step("I", "", "d"))


def test_characters_are_tokens_and_a_blank_is_one_of_them():
    assert as_characters("to  be") == "t o <space> b e"


@pytest.mark.parametrize(("reference", "hypothesis"), [("the cat sat on", "the hat sat"), ("a b", ""), ("ab", "a b")])
def test_character_errors_are_those_of_jiwer(reference, hypothesis):
    counted = counts(as_characters(reference), as_characters(hypothesis))

    assert counted.rate == jiwer.cer(reference, hypothesis)
