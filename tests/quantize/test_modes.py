"""`auto` takes the first mode that fits well; a mode that was removed says what to use instead."""

import pytest

import pqm_plugin
from pqm_plugin.__main__ import main
from pqm_plugin.errors import PqmError
from pqm_plugin.quantize.modes import check_mode, pick_mode

N = 1000


@pytest.mark.parametrize(("free", "mode"), [(16 * N, "exact"), (16 * N - 1, "small"), (0, "exact")])
def test_weights_may_take_a_quarter_of_what_is_free(free, mode):
    assert pick_mode(N, free).mode == mode


def test_the_reason_names_what_was_too_much_for_how_much():
    picked = pick_mode(10**7, 6 * 10**7)

    assert picked.mode == "small"
    assert picked.reason == "float32 weights of 40 MB are too many for 60 MB of free memory"
    assert "float32 weights of 40 MB fit 900 MB" in pick_mode(10**7, 9 * 10**8).reason


def test_a_mode_that_was_removed_is_named_with_what_to_use_instead_wherever_it_is_asked_for(tmp_path, capsys):
    removed = "mode fast was removed: it decoded slower than full precision; use exact, or small"

    assert main(["decode", "--mode", "fast"]) == 1
    assert removed in capsys.readouterr().err
    with pytest.raises(PqmError, match=removed):
        pqm_plugin.load(tmp_path, mode="fast")
    with pytest.raises(PqmError, match="mode tiny: use one of exact, small"):
        check_mode("tiny")
