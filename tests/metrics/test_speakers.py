"""Counts and the sign test, by hand."""

import pytest

from pqm_plugin.metrics.bootstrap import SpeakerCounts, count_speakers


def test_a_speaker_is_helped_if_the_sum_of_his_errors_is_smaller():
    counts = count_speakers(ours=[0, 3, 5, 1], theirs=[2, 2, 4, 1], speakers=["a", "a", "b", "c"])

    assert (counts.helped, counts.harmed, counts.unchanged) == (1, 1, 1)


def test_nine_of_ten_speakers_is_more_than_chance_and_ties_do_not_count():
    # 2 * (C(10, 0) + C(10, 1)) / 2**10 = 22 / 1024.
    ours, theirs = [1] * 9 + [3] + [2] * 5, [2] * 15

    counts = count_speakers(ours, theirs, [f"s{i}" for i in range(15)])

    assert counts.sign_test_p == pytest.approx(22 / 1024)
    assert counts.unchanged == 5


def test_equal_systems_have_nothing_to_test():
    assert count_speakers([1, 2], [1, 2], ["a", "b"]) == SpeakerCounts(0, 0, 2, None)
