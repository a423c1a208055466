"""Intervals that are known without a computer, or nearly."""

import math

import numpy as np
import pytest

from pqm_plugin.metrics.bootstrap import resample


def test_many_alike_utterances_of_one_speaker_give_the_normal_interval_of_a_ratio():
    rng = np.random.default_rng(5)
    words = rng.integers(5, 25, 1000)
    errors = rng.binomial(words, 0.1)
    wer = errors.sum() / words.sum()
    standard_error = math.sqrt(((errors - wer * words) ** 2).sum()) / words.sum()

    low, high = resample({"full": errors}, words, ["a"] * 1000, seed=1, n_resamples=4000).interval("full")

    assert low == pytest.approx(wer - 1.96 * standard_error, abs=0.1 * standard_error)
    assert high == pytest.approx(wer + 1.96 * standard_error, abs=0.1 * standard_error)


def test_speakers_are_drawn_whole_so_two_that_differ_make_a_wide_interval():
    # With two speakers one of whom makes every error, a resample has him 0, 1 or 2 times: WER 0, 0.5 or 1.
    resampled = resample({"full": [1] * 40 + [0] * 40}, [1] * 80, ["a"] * 40 + ["b"] * 40, seed=1)

    assert resampled.interval("full") == (0.0, 1.0)
    assert set(resampled.errors["full"] / resampled.words) == {0.0, 0.5, 1.0}
    assert np.mean(resampled.errors["full"] == 40) == pytest.approx(0.5, abs=0.02)


def test_a_drawn_speaker_brings_as_many_utterances_as_he_has():
    resampled = resample({"full": [0, 0, 0, 0]}, [1, 1, 1, 1], ["a", "b", "b", "b"], seed=1, n_resamples=200)

    assert set(resampled.words.tolist()) == {2, 4, 6}


def test_the_same_system_twice_is_no_improvement_at_all():
    errors = [0, 1, 2, 3]
    resampled = resample({"full": errors, "espnet": errors}, [5] * 4, ["a", "a", "b", "b"], seed=1, n_resamples=500)

    comparison = resampled.compare("espnet", "full")

    assert comparison.relative_wer_reduction == 0
    assert comparison.ci95 == (0.0, 0.0)
    assert comparison.p_improvement == 0.5


def test_half_the_errors_in_every_utterance_is_half_the_errors_in_every_resample():
    resampled = resample(
        {"nf4": [2, 4, 6], "nf4+speaker": [1, 2, 3]}, [9] * 3, ["a", "b", "b"], seed=1, n_resamples=500
    )

    comparison = resampled.compare("nf4+speaker", "nf4")

    assert comparison.relative_wer_reduction == 0.5
    assert comparison.ci95 == (0.5, 0.5)
    assert comparison.p_improvement == 1
    assert resampled.compare("nf4", "nf4+speaker").relative_wer_reduction == -1


def test_a_system_is_compared_with_the_mean_of_several_on_the_same_resamples():
    errors = {"nf4": [8, 8, 8], "own": [3, 3, 3], "other": [4, 4, 4], "other2": [8, 8, 8]}
    resampled = resample(errors, [9] * 3, ["a", "b", "b"], seed=1, n_resamples=500)

    against_mean = resampled.compare("own", ("other", "other2"))

    assert against_mean.relative_wer_reduction == 0.5
    assert against_mean.ci95 == (0.5, 0.5)
    assert against_mean.p_improvement == 1
    # The mean of four and eight is six: of eight errors a quarter goes with the others, three eighths with one's own.
    parts = [
        resampled.gain(*ends, of=("nf4",))
        for ends in ((("nf4",), ("other", "other2")), (("other", "other2"), ("own",)))
    ]
    assert [part.relative_wer_reduction for part in parts] == [0.25, 0.375]
    assert [part.ci95 for part in parts] == [(0.25, 0.25), (0.375, 0.375)]


def test_the_parts_of_a_gain_vary_with_the_speakers_and_add_up():
    errors = {"nf4": [10, 10], "own": [0, 10], "other": [10, 0]}
    resampled = resample(errors, [20, 20], ["a", "b"], seed=1, n_resamples=500)

    own = resampled.gain(("other",), ("own",), of=("nf4",))

    # One's own helps the first speaker by all and harms the second by as much.
    assert own.relative_wer_reduction == 0
    assert own.ci95 == (-1.0, 1.0)
    assert own.p_improvement == pytest.approx(0.5, abs=0.07)


def test_the_same_seed_draws_the_same_and_another_draws_otherwise():
    data = ({"full": [0, 1, 2, 3]}, [5] * 4, ["a", "a", "b", "b"])

    first, again, other = (resample(*data, seed=seed, n_resamples=700).errors["full"] for seed in (1, 1, 2))

    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_one_more_system_does_not_change_the_draws():
    alone = resample({"full": [0, 1, 2, 3]}, [5] * 4, ["a", "a", "b", "b"], seed=1, n_resamples=300)
    joined = resample({"full": [0, 1, 2, 3], "x": [0] * 4}, [5] * 4, ["a", "a", "b", "b"], seed=1, n_resamples=300)

    assert alone.errors["full"].tolist() == joined.errors["full"].tolist()


def test_against_a_system_without_errors_there_is_no_relative_reduction():
    comparison = resample({"a": [1], "b": [0]}, [5], ["s"], seed=1, n_resamples=50).compare("a", "b")

    assert comparison.relative_wer_reduction is None
    assert comparison.ci95 == (None, None)
    assert comparison.p_improvement == 0


def test_an_end_of_an_interval_is_none_where_resamples_leave_the_other_system_without_errors():
    # Two speakers: a quarter of the resamples hold "s" only, where "b" makes no error and "a" makes some.
    comparison = resample({"a": [1, 0], "b": [0, 1]}, [5, 5], ["s", "t"], seed=1, n_resamples=500).compare("a", "b")

    assert comparison.relative_wer_reduction == 0
    assert comparison.ci95 == (None, 1.0)
    assert comparison.p_improvement == pytest.approx(0.5, abs=0.07)


def test_resamples_without_a_reference_word_are_left_out_of_the_interval():
    low, high = resample({"a": [1, 1]}, [0, 4], ["s", "s"], seed=1, n_resamples=300).interval("a")

    assert (low, high) == (0.25, 0.5)


def test_lists_of_different_length_are_refused():
    with pytest.raises(ValueError, match="2 > 0 utterances"):
        resample({"full": [1]}, [5, 5], ["a", "a"], seed=1)


def test_the_standard_error_is_that_of_a_published_example():
    # Efron and Tibshirani 1993, An Introduction to the Bootstrap, tables 2.1 and 2.2: survival times of seven treated
    # mice, whose mean has a bootstrap standard error of 23.36 days in the limit of many resamples.
    days = [94, 197, 16, 38, 99, 141, 23]

    resampled = resample({"full": days}, [1] * 7, ["mice"] * 7, seed=1, n_resamples=100_000)

    means = resampled.errors["full"] / resampled.words
    assert np.mean(means) == pytest.approx(86.86, abs=0.3)
    assert np.std(means) == pytest.approx(23.36, abs=0.2)
