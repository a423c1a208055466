"""A recording as pieces: which may hold words, and how many are searched at once."""

import numpy as np
import pytest

from pqm_plugin.errors import PqmError
from pqm_plugin.personal.pieces import batches, may_hold_words
from tests.personal.conftest import noise


@pytest.mark.parametrize(
    ("most", "sizes"), [(8, [1, 2, 4, 8, 5]), (3, [1, 2, 3, 3, 3, 3, 3, 2]), (1, [1] * 20)], ids=str
)
def test_the_first_piece_is_searched_alone_and_then_twice_as_many_each_time(most, sizes):
    found = list(batches(iter(range(20)), most))

    assert [len(batch) for batch in found] == sizes
    assert sum(found, []) == list(range(20))


def test_the_second_piece_is_not_read_before_the_first_is_given():
    read = []

    first = next(batches((read.append(number) or number for number in range(20)), 8))

    assert first == read == [0]


def test_pieces_before_a_damage_come_before_its_error():
    def damaged():
        yield from range(5)
        raise PqmError("the rest is damaged")

    found = []
    with pytest.raises(PqmError, match="the rest is damaged"):
        for batch in batches(damaged(), 8):
            found.extend(batch)

    assert found == list(range(5))


@pytest.mark.parametrize(
    ("samples", "expected"),
    [(noise(1) / 32768, True), (noise(1, 1599) / 32768, False), (np.zeros(16000), False)],
    ids=["noise", "a click", "silence"],
)
def test_a_click_and_silence_hold_no_words(samples, expected):
    assert may_hold_words(samples.astype(np.float32), 16000) is expected
