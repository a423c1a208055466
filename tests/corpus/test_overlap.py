"""What a speaker's test shares with what was learned from is counted."""

from pqm_plugin.corpus.partition import Partition, Row, overlap
from pqm_plugin.corpus.utterance import Utterance


def said(name: str, text: str, source: str = "") -> Utterance:
    return Utterance(name, name.split("-")[0], text, "a.wav", source=source)


def partition(**splits: str) -> Partition:
    rows = [Row(name, name.split("-")[0], "s", split) for split, names in splits.items() for name in names.split()]
    return Partition(tuple(rows))


def test_texts_of_the_own_train_and_of_sat_and_shared_books_are_counted() -> None:
    spoken = {
        "s": [
            *(said("ann-1", "Good  morning", "book 1"), said("ann-2", "yes", "book 2")),
            *(said("ann-3", "good morning", "book 2"), said("ann-4", "no thank you", "book 3")),
            *(said("bob-1", "NO thank you"), said("bob-2", "good night")),
        ]
    }
    found = overlap(partition(train="ann-1 ann-2", test="ann-3 ann-4", sat_train="bob-1 bob-2"), spoken)

    assert found == {
        "ann": {
            **{"utterances": 2, "words": 5, "same_text": 1, "same_text_words": 2, "same_text_sat": 1},
            **{"same_source": 1, "shared_sources": ["book 2"]},
        }
    }


def test_a_corpus_that_tells_no_source_gets_no_claim_about_it() -> None:
    found = overlap(partition(train="ann-1", test="ann-2"), {"s": [said("ann-1", "a"), said("ann-2", "b")]})

    assert found["ann"]["same_source"] is None and found["ann"]["same_text"] == 0
