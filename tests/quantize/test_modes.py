"""`auto` takes the first mode that fits well, and never another arithmetic where words must stay."""

import pytest

from pqm_plugin.quantize.modes import pick_mode

N = 1000
EXACT, FAST = 4 * 4 * N, 4 * 2 * N


@pytest.mark.parametrize(
    ("free", "bfloat16", "mode"),
    [
        (EXACT, True, "exact"),
        (EXACT, False, "exact"),
        (EXACT - 1, True, "fast"),
        (EXACT - 1, False, "small"),
        (FAST, True, "fast"),
        (FAST - 1, True, "small"),
        (0, True, "exact"),
    ],
)
def test_weights_may_take_a_quarter_of_what_is_free(free, bfloat16, mode):
    assert pick_mode(N, free, bfloat16=bfloat16).mode == mode


def test_the_reason_names_what_was_too_much_for_how_much():
    picked = pick_mode(10**7, 6 * 10**7, bfloat16=True)

    assert picked.mode == "small"
    assert picked.reason == "bfloat16 weights of 20 MB are too many for 60 MB of free memory"
    assert "float32 weights of 40 MB fit 900 MB" in pick_mode(10**7, 9 * 10**8, bfloat16=True).reason
