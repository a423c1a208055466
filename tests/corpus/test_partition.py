"""The split of each speaker, and who may teach."""

import json
from pathlib import Path

import pytest

from pqm_plugin.corpus.partition import Partition, Row, every_second_speaker, make_partition, paper_split
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError


def said(speaker: str, count: int) -> list[Utterance]:
    return [Utterance(f"{speaker}-1-{index:04d}", speaker, "X", "/x") for index in range(count)]


def test_ten_utterances_split_four_two_four_in_string_order() -> None:
    names = [f"7-{index}" for index in range(1, 11)]

    split = paper_split(names)

    assert split == {
        "train": ["7-1", "7-10", "7-2", "7-3"],
        "dev": ["7-4", "7-5"],
        "test": ["7-6", "7-7", "7-8", "7-9"],
    }


def test_the_smallest_speaker_has_all_three_splits() -> None:
    assert {name: len(part) for name, part in paper_split("abcde").items()} == {"train": 2, "dev": 1, "test": 2}


def listed(ranges: list[str]) -> list[str]:
    """Expand `115-121720-0000..0023`, both ends included."""
    names = []
    for entry in ranges:
        stem, _, last = entry.rpartition("..")
        chapter, _, first = stem.rpartition("-")
        names += [f"{chapter}-{index:04d}" for index in range(int(first), int(last) + 1)]
    return names


@pytest.mark.real
def test_the_authors_ten_readers_split_id_by_id(shared: Path) -> None:
    published = json.loads((shared / "reference/partition.json").read_text())
    totals = {"train": 0, "dev": 0, "test": 0}

    for reader, entry in published["librispeech"].items():
        names = [
            f"{reader}-{chapter}-{index:04d}" for chapter, count in entry["chapters"].items() for index in range(count)
        ]
        split = paper_split(names)
        for part, ids in split.items():
            assert ids == listed(entry[part])
            assert len(ids) == entry["counts"][part]
            totals[part] += len(ids)

    assert totals == {"train": 632, "dev": 316, "test": 632}


def test_sat_dev_is_whole_speakers_from_the_end() -> None:
    sat = [utterance for speaker in "abcdefghijklm" for utterance in said(speaker, 2)]

    partition = make_partition({"t": said("9", 5)}, {"s": sat})

    assert partition.speakers("sat_train") == list("abcdefghijk")
    assert partition.speakers("sat_dev") == ["l", "m"]
    assert len(partition.utterances("sat_dev", "m")) == 2


def test_a_target_never_teaches_and_a_short_speaker_is_left_out_by_name() -> None:
    targets = said("1", 5) + said("2", 4)

    partition = make_partition({"t": targets}, {"s": said("1", 3) + said("3", 3) + said("4", 3)})

    assert partition.speakers("test") == ["1"]
    assert partition.speakers("sat_train") + partition.speakers("sat_dev") == ["3", "4"]
    assert partition.left_out == {
        "1": "SAT utterances of a target speaker (3)",
        "2": "target with 4 utterances, fewer than the 5 that a split needs",
    }


def test_a_short_target_does_not_slip_into_sat() -> None:
    partition = make_partition({"t": said("1", 5) + said("2", 4)}, {"s": said("2", 9) + said("3", 1) + said("4", 1)})

    assert "2" not in partition.speakers("sat_train") + partition.speakers("sat_dev")
    assert "fewer than the 5" in partition.left_out["2"] and "(9)" in partition.left_out["2"]


def test_one_set_can_give_targets_and_teachers() -> None:
    everyone = [utterance for speaker in "1234" for utterance in said(speaker, 5)]

    partition = make_partition({"s": everyone}, {"s": everyone}, speakers=["2"])

    assert partition.speakers("train") == ["2"]
    assert partition.speakers("sat_train") == ["1", "3"]
    assert partition.speakers("sat_dev") == ["4"]


def test_check_utterances_are_taken_as_they_are() -> None:
    partition = make_partition({"t": said("1", 5)}, {}, check={"c": said("8", 2)})

    assert partition.rows[-2:] == (Row("8-1-0000", "8", "c", "check"), Row("8-1-0001", "8", "c", "check"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"speakers": ["1272", "127"]}, "127 .nearest: 1272"),
        ({"speakers": []}, "list of speakers is empty"),
        ({"split_rule": "papre"}, "'papre' is not known .nearest: paper"),
        ({"min_utterances": 9}, "no target speaker has 9 utterances .1272."),
        ({"sat": {"s": said("3", 5)}}, "1 SAT speakers are left"),
        ({"check": {"c": said("1272", 1)}}, "1272-1-0000: in two rows"),
    ],
)
def test_what_cannot_be_partitioned_is_an_error_with_its_remedy(change: dict[str, object], words: str) -> None:
    arguments: dict[str, object] = {"targets": {"t": said("1272", 8)}, "sat": {}}

    with pytest.raises(PqmError, match=words):
        make_partition(**(arguments | change))  # type: ignore[arg-type]


def test_a_partition_is_read_back_from_its_table(tmp_path: Path) -> None:
    partition = make_partition({"t": said("1", 5)}, {"s": said("3", 1) + said("4", 1)})

    partition.write(tmp_path / "partition.tsv")

    assert Partition.read(tmp_path / "partition.tsv").rows == partition.rows
    assert (
        (tmp_path / "partition.tsv").read_text().startswith("utterance\tspeaker\tset\tsplit\n1-1-0000\t1\tt\ttrain\n")
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("utt\tspk\n", ":1: the header"),
        ("utterance\tspeaker\tset\tsplit\na\tb\tc\n", ":2: 'a.*is not a row"),
        ("utterance\tspeaker\tset\tsplit\na\tb\tc\ttrian\n", ":2: "),
        ("utterance\tspeaker\tset\tsplit\na\tb\tc\ttrain\na\tb\tc\tdev\n", "a: in two rows"),
    ],
)
def test_a_broken_table_is_refused_by_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "partition.tsv").write_text(text)

    with pytest.raises(PqmError, match=words):
        Partition.read(tmp_path / "partition.tsv")


def test_a_missing_table_names_the_stage(tmp_path: Path) -> None:
    with pytest.raises(PqmError, match="run stage 1 first"):
        Partition.read(tmp_path / "partition.tsv")


def test_every_second_speaker_with_enough_to_split_is_a_target_and_two_are_needed() -> None:
    everybody = [each for name, count in zip("abcdef", (5, 4, 5, 6, 5, 5), strict=True) for each in said(name, count)]

    assert every_second_speaker(everybody) == ["c", "e"]
    with pytest.raises(PqmError, match="nobody is left for SAT: .*--sat_sets ''"):
        every_second_speaker(said("a", 9) + said("b", 4))
