"""Readers are found by name."""

import pytest

from pqm_plugin.corpus.readers import available_readers, find_reader
from pqm_plugin.errors import PqmError


def test_every_reader_offers_both_functions() -> None:
    for name in available_readers():
        reader = find_reader(name)
        assert callable(reader.read) and callable(reader.available_sets)


def test_an_unknown_reader_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(PqmError, match="'libri' is not known .*librispeech"):
        find_reader("libri")
