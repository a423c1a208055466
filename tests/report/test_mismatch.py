"""Gain against mismatch, from readers whose numbers can be worked out by hand."""

import pytest

from pqm_plugin.report.mismatch import (
    conditions_of,
    correlation,
    mismatch_figure,
    mismatch_parts,
    mismatch_table,
    points,
)


def condition(name, full, own, base="tiny"):
    """Readers of 100 words each, with so many errors by `full`, and by `nf4+speaker` and every other adapter."""

    def system(errors):
        readers = {str(place): {"errors": one, "wer": one / 100} for place, one in enumerate(errors)}
        return {"errors": sum(errors), "wer": sum(errors) / 100 / len(errors), "speakers": readers}

    systems = {"full": system(full)} | dict.fromkeys(("nf4+sat", "nf4+speaker", "nf4+other"), system(own))
    row = {"against": "full", "relative_wer_reduction": 1 - sum(own) / sum(full), "ci95": [0.1, 0.4]}
    rows = [{"system": key, **row} for key in ("nf4+sat", "nf4+speaker")]
    return {"meta": {"base": base, "corpus": name, "decoding": "greedy, fast"}, "systems": systems, "comparisons": rows}


@pytest.fixture
def plain():
    return condition("plain", [10, 20, 40], [10, 15, 20])


@pytest.fixture
def noisy():
    return condition("noisy", [10, 20, 40], [5, 15, 40])


def test_each_reader_is_a_point_of_base_error_and_gain(plain):
    assert points(plain, "nf4+speaker") == [(0.1, 0.0), (0.2, 0.25), (0.4, 0.5)]


def test_a_reader_without_errors_cannot_gain_and_is_left_out():
    assert len(points(condition("a", [0, 20, 40], [0, 15, 20]), "nf4+speaker")) == 2


def test_who_errs_more_and_gains_more_correlates_and_who_gains_less_does_so_negatively(plain, noisy):
    assert correlation(plain, "nf4+speaker")[0] == pytest.approx(1)
    assert correlation(noisy, "nf4+speaker")[0] == pytest.approx(-1)
    assert correlation(condition("a", [10, 20, 40], [10, 20, 40]), "nf4+speaker") is None


def test_only_conditions_of_one_base_with_readers_enough_are_compared(plain, noisy):
    assert conditions_of({"a": plain, "b": noisy}) == [{"a": plain, "b": noisy}]
    assert conditions_of({"a": plain}) == []
    assert conditions_of({"a": plain, "b": condition("b", [1, 2, 3], [1, 2, 3], base="another")}) == []
    assert conditions_of({"a": plain, "b": condition("b", [1, 2], [1, 2])}) == []


def test_the_table_has_a_row_a_condition(plain, noisy):
    lines = mismatch_table({"plain": plain, "noisy": noisy}).splitlines()

    # 70 errors of 300 words, of which 45 are left in the plain condition and 60 in the noisy one.
    assert lines[2] == "| plain | 23.33 | 35.7 [10.0, 40.0] | 35.7 [10.0, 40.0] | 35.7 | 1.00 |"
    assert lines[3] == "| noisy | 23.33 | 14.3 [10.0, 40.0] | 14.3 [10.0, 40.0] | 14.3 | -1.00 |"


def test_the_page_says_the_correlation_and_what_is_correlated(plain, noisy):
    page = "\n".join(mismatch_parts({"long heading": plain, "other heading": noisy}, "figures/m.svg", "*Lossy.*"))

    assert "plain, greedy: 1.00, p = 0.000, 3 readers; noisy, greedy: -1.00" in page
    assert "Spearman's, over readers, of the WER of `full` with the relative reduction" in page
    assert "](figures/m.svg)" in page and "*Lossy.*" in page


def test_the_figure_has_the_same_bytes_every_time(plain, noisy, tmp_path):
    for name in ("one.svg", "two.svg"):
        mismatch_figure({"plain": plain, "noisy": noisy}, tmp_path / name, "Lossy.")

    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
