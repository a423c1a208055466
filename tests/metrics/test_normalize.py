"""Format that must earn no credit."""

import pytest

from pqm_plugin.metrics.normalize import normalize


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
