"""How sure, and sure enough."""

import math

import pytest

from pqm_plugin.personal.confidence import confidence, held_out, pick


def test_confidence_is_the_mean_probability_of_tokens_and_end():
    assert confidence(3 * math.log(0.5), n_tokens=2) == pytest.approx(0.5)
    assert confidence(0.4, n_tokens=1) == 1.0
    assert confidence(-math.inf, n_tokens=1) == confidence(math.nan, n_tokens=1) == 0.0


def test_only_words_that_are_sure_enough_are_picked_in_their_order():
    assert pick([0.9, 0.5, 0.8, 1.0], ["A", "B", "C", " "], threshold=0.8) == [0, 2]


def test_every_fifth_recording_chooses_the_epoch_and_of_few_the_last_or_none():
    assert held_out(11) == [4, 9]
    assert held_out(4) == [3] and held_out(3) == [2]
    assert held_out(2) == held_out(1) == held_out(0) == []
