"""Corpora whose speakers read the same sentences: no test sentence is in anybody's training."""

import pytest

from pqm_plugin.corpus.partition import make_partition, without_test_sentences
from pqm_plugin.corpus.readers import own
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError

LEARNED = ("train", "dev", "sat_train", "sat_dev")


def texts_of(partition, utterances, *splits):
    known = {each.utterance: each.text.casefold() for each in utterances}
    return {known[name] for split in splits for name in partition.utterances(split)}


def readers(names, n_sentences):
    return [
        Utterance(f"{name}-{i:02d}", name, f"Sentence {i}", f"{name}.wav") for name in names for i in range(n_sentences)
    ]


def test_what_anybody_is_tested_on_nobody_learns_and_the_rest_stays():
    targets, teachers = readers("ab", 10), readers("cde", 10)
    plain = make_partition({"own": targets}, {"sat": teachers})

    unseen = without_test_sentences(plain, {"own": targets, "sat": teachers})

    tested = texts_of(plain, targets, "test")
    assert texts_of(plain, teachers, "sat_train") & tested
    assert texts_of(unseen, targets + teachers, *LEARNED) == texts_of(plain, targets + teachers, *LEARNED) - tested
    assert [row for row in unseen.rows if row.split == "test"] == [row for row in plain.rows if row.split == "test"]


def test_a_speaker_who_would_have_nothing_left_is_named_with_the_remedy():
    same = [Utterance(f"a-{i:02d}", "a", "yes", "a.wav") for i in range(10)]

    with pytest.raises(
        PqmError, match="every (train|dev) text of a is somebody's test text.*--test_sentences anywhere"
    ):
        without_test_sentences(make_partition({"own": same}, {}), {"own": same})


@pytest.mark.real
@pytest.mark.parametrize("corpus", ["usc_ema", "speechocean762", "common_voice"])
def test_speakers_with_one_script_teach_others_nothing_of_their_test(shared, corpus):
    utterances = list(own.read(shared / "data" / corpus / "corpus.tsv", "own"))
    sets = {"own": utterances}
    everybody = make_partition(sets, {}, min_utterances=5)
    half = make_partition(sets, sets, sorted({each.speaker for each in utterances})[1::2])
    if corpus == "usc_ema":
        # The rule 40/20/40 goes by names, and names by sentence.
        assert len(texts_of(everybody, utterances, "test")) == 64
        assert not texts_of(everybody, utterances, "test") & texts_of(everybody, utterances, "train", "dev")
        # Whole SAT speakers read the test sentences, too.
        assert texts_of(half, utterances, "sat_train") & texts_of(half, utterances, "test")

    unseen = without_test_sentences(half, sets)

    assert not texts_of(unseen, utterances, "test") & texts_of(unseen, utterances, *LEARNED)
