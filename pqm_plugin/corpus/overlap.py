"""What a target speaker's test shares with what was learned from: it decides what a gain means."""

import logging
from collections.abc import Mapping, Sequence

from pqm_plugin.corpus.partition import Partition
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError

Overlap = dict[str, int | list[str] | None]
ANYWHERE, UNSEEN = "anywhere", "unseen"
_LEARNED = ("train", "dev", "sat_train", "sat_dev")
_log = logging.getLogger(__name__)


def overlap(partition: Partition, sets: Mapping[str, Sequence[Utterance]]) -> dict[str, Overlap]:
    """Return for each target speaker the size of the test and how much of it train knows already.

    `same_text` counts test utterances, and `same_text_words` their words, whose whole text the speaker's own train
    holds too, letter case aside; `same_text_sat` those whose text SAT heard. `same_source` counts test utterances of
    `shared_sources`: the books, talks or sessions that the speaker's train has too. Both are None if the corpus tells
    the source of no test utterance.
    """
    known = {(name, each.utterance): each for name, utterances in sets.items() for each in utterances}
    found: dict[tuple[str, str], list[Utterance]] = {}
    for row in partition.rows:
        found.setdefault((row.split, row.speaker), []).append(known[row.set, row.utterance])
    sat = {_text(each) for (split, _), group in found.items() if split == "sat_train" for each in group}
    return {
        speaker: _of_speaker(found[("train", speaker)], found[("test", speaker)], sat)
        for speaker in partition.speakers("test")
    }


def without_test_sentences(partition: Partition, sets: Mapping[str, Sequence[Utterance]]) -> Partition:
    """Leave out what is learned from, or chosen by, and has the whole text of any test utterance, letter case aside.

    Raises:
        PqmError: if a speaker or SAT has nothing left to learn from.
    """
    texts = {(name, each.utterance): _text(each) for name, utterances in sets.items() for each in utterances}
    tested = {texts[row.set, row.utterance] for row in partition.rows if row.split == "test"}
    kept = tuple(
        row for row in partition.rows if row.split not in _LEARNED or texts[row.set, row.utterance] not in tested
    )
    smaller = Partition(kept, partition.left_out)
    lost = sorted({(row.split, row.speaker) for row in partition.rows} - {(row.split, row.speaker) for row in kept})
    if lost:
        split, speaker = lost[0]
        raise PqmError(
            f"--test_sentences {UNSEEN}: every {split} text of {speaker} is somebody's test text: a corpus of so few "
            f"sentences takes --test_sentences {ANYWHERE}, and shows what others' adapters do"
        )
    for split in _LEARNED:
        before, after = len(partition.utterances(split)), len(smaller.utterances(split))
        if after < before:
            _log.info("%s: %d of %d utterances are left out, their text is a test text", split, before - after, before)
    return smaller


def _of_speaker(train: Sequence[Utterance], test: Sequence[Utterance], sat: set[str]) -> Overlap:
    heard = {_text(each) for each in train}
    same_text = [each for each in test if _text(each) in heard]
    sources = {each.source for each in test} - {""}
    shared = sources & {each.source for each in train}
    return {
        "utterances": len(test),
        "words": _n_words(test),
        "same_text": len(same_text),
        "same_text_words": _n_words(same_text),
        "same_text_sat": sum(_text(each) in sat for each in test),
        "same_source": sum(each.source in shared for each in test) if sources else None,
        "shared_sources": sorted(shared) if sources else None,
    }


def _text(utterance: Utterance) -> str:
    return " ".join(utterance.text.casefold().split())


def _n_words(utterances: Sequence[Utterance]) -> int:
    return sum(len(each.text.split()) for each in utterances)
