"""What a target speaker's test shares with what was learned from: it decides what a gain means."""

from collections.abc import Mapping, Sequence

from pqm_plugin.corpus.partition import Partition
from pqm_plugin.corpus.utterance import Utterance

Overlap = dict[str, int | list[str] | None]


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
