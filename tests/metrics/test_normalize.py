"""Format that must earn no credit."""

import pytest

from pqm_plugin.metrics.normalize import normalize, normalizer_of


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Mr. Brown", "mister brown"),
        ("twenty-two", "22"),
        ("don't", "do not"),
        ("Colour!", "color"),
        ("HMM YES", "yes"),
    ],
)
def test_two_ways_to_write_the_same_words_become_one(one, other):
    assert normalize(one) == normalize(other)


def test_an_empty_text_stays_empty():
    assert normalize("") == ""


@pytest.mark.parametrize("text", ["नमस्ते दुनिया", "வணக்கம்", "สวัสดี", "café größe"])
def test_marks_that_are_vowels_and_letters_that_english_lacks_stay(text):
    assert normalizer_of("hi")(text) == text


def test_other_languages_lose_case_and_punctuation_and_no_words():
    assert normalizer_of("de")("Ähm, Mr. ZWEIUNDZWANZIG  don't!") == "ähm mr zweiundzwanzig don t"


def test_english_has_the_english_normaliser():
    assert normalizer_of("en")("Mr. Brown, twenty-two") == normalize("Mr. Brown, twenty-two") == "mister brown 22"
