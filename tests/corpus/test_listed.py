"""Partitions that list their utterances."""

import json
from pathlib import Path

import pytest

from pqm_plugin.corpus.partition import PUBLISHED, find_listing, listed_partition
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError

MINE = {
    "counts": {"train": 3, "dev": 1, "test": 1},
    "groups": {
        "a": {"total": 3, "train": "c1-0..1", "dev": "", "test": "c2-0"},
        "b_2001": {"total": 2, "train": "0007", "dev": "0009", "test": ""},
    },
}
THERE = ("a-c1-0", "a-c1-1", "a-c2-0", "b_2001-0007", "b_2001-0009")


def mine(tmp_path: Path, **changes: object) -> str:
    (tmp_path / "mine.json").write_text(json.dumps({**MINE, **changes}))
    return str(tmp_path / "mine.json")


def said(*names: str) -> list[Utterance]:
    return [Utterance(name, name.split("-")[0].removesuffix("_2001").upper(), "X", "/x") for name in names]


def test_a_users_own_file_gives_its_splits_whatever_else_the_set_holds(tmp_path: Path) -> None:
    listing = find_listing(mine(tmp_path), "librispeech")

    partition = listed_partition(listing, {"t": said(*THERE, "c-1", "b-1")}, {})

    assert [(row.utterance, row.speaker, row.set, row.split) for row in partition.rows] == [
        ("a-c1-0", "A", "t", "train"),
        ("a-c1-1", "A", "t", "train"),
        ("b_2001-0007", "B", "t", "train"),
        ("b_2001-0009", "B", "t", "dev"),
        ("a-c2-0", "A", "t", "test"),
    ]


def test_chosen_speakers_alone_must_fit(tmp_path: Path) -> None:
    listing = find_listing(mine(tmp_path), "librispeech")

    partition = listed_partition(listing, {"t": said(*THERE[:4])}, {}, speakers=["A"])

    assert len(partition.rows) == 3
    with pytest.raises(PqmError, match="--speakers: Z not in the partition"):
        listed_partition(listing, {"t": said(*THERE)}, {}, speakers=["Z"])


def test_a_target_never_teaches(tmp_path: Path) -> None:
    sat = said("a-c9-0", "y-0", "z-0")

    partition = listed_partition(find_listing(mine(tmp_path), "librispeech"), {"t": said(*THERE)}, {"s": sat})

    assert partition.speakers("sat_train") + partition.speakers("sat_dev") == ["Y", "Z"]
    assert partition.left_out == {"A": "SAT utterances of a target speaker (1)"}


def test_what_does_not_fit_is_named_with_the_difference(tmp_path: Path) -> None:
    listing = find_listing(mine(tmp_path), "librispeech")

    with pytest.raises(PqmError) as raised:
        listed_partition(listing, {"t": said(*THERE[:2], "a-c2-1", "a-c2-2")}, {})

    assert "2 of 2 groups do not fit the corpus, which has 4 utterances for the 5 that are listed" in str(raised.value)
    assert "a has 4 utterances where 3 are listed (without a-c2-0, and also a-c2-1, a-c2-2)" in str(raised.value)
    assert "b_2001 has 0 utterances where 2 are listed" in str(raised.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"counts": {"train": 4, "dev": 1, "test": 1}}, "train lists 3 of 4"),
        ({"groups": {"a": {"total": 2, "train": "1..3", "dev": "4", "test": "5"}}}, "a lists 5 of 2"),
        ({"groups": {"a": {"total": 5, "train": "1..3", "dev": "3", "test": "5"}}}, "appears twice"),
        ({"groups": {"a": {"total": 5, "train": "3..1"}}}, "is not a partition .*ends before it begins"),
        ({"groups": []}, "is not a partition"),
    ],
)
def test_a_file_that_does_not_add_up_is_refused(tmp_path: Path, change: dict[str, object], words: str) -> None:
    with pytest.raises(PqmError, match=words):
        find_listing(mine(tmp_path, **change), "librispeech")


def test_an_unknown_partition_is_an_error_with_the_nearest_one() -> None:
    with pytest.raises(PqmError, match="--partition papre: no such file, .*nearest: paper"):
        find_listing("papre", "librispeech")


def test_the_published_partitions_have_the_published_counts() -> None:
    libri, ted = (find_listing("paper", reader) for reader in ("librispeech", "tedlium3"))

    assert (len(libri.groups), dict(libri.counts)) == (10, {"train": 632, "dev": 316, "test": 632})
    assert (len(ted.groups), dict(ted.counts)) == (16, {"train": 1033, "dev": 516, "test": 1031})
    assert len(list(PUBLISHED.iterdir())) == 2


@pytest.mark.real
def test_the_published_partitions_are_those_of_the_reference_id_by_id(shared: Path) -> None:
    from tests.corpus.test_partition import listed

    reference = json.loads((shared / "reference/partition.json").read_text())
    libri, ted = (find_listing("paper", reader) for reader in ("librispeech", "tedlium3"))

    for split in ("train", "dev", "test"):
        for group, entry in reference["librispeech"].items():
            assert libri.groups[group][split] == listed(entry[split])
        for group, entry in reference["tedlium3"].items():
            assert ted.groups[group][split] == [f"{group}-{index:04d}" for index in sorted(entry[split])]
