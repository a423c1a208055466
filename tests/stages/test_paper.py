"""`--partition paper`: the readers and talks of the paper, utterance by utterance, on corpora built for it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pqm_plugin.corpus.kaldi import read_data_folder
from pqm_plugin.corpus.partition import Partition, paper_split
from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json
from pqm_plugin.stages import run_stage
from pqm_plugin.stages.recipe import Recipe
from tests.paper import CHAPTERS, write_librispeech, write_tedlium


@pytest.fixture
def librispeech(tmp_path: Path) -> Path:
    """A LibriSpeech with the paper's readers, one more, and three to teach, one of whom is a target."""
    return write_librispeech(tmp_path / "LibriSpeech")


@pytest.fixture
def tedlium(tmp_path: Path) -> Path:
    """A TED-LIUM 3 with the paper's talks; the words of a segment are its place in the cleaned list."""
    return write_tedlium(tmp_path)


@pytest.fixture
def prepare(tmp_path: Path) -> Callable[..., Partition]:
    """Return a function that runs stage 1 with the paper's partition."""

    def run(corpus: Path, reader: str, target_set: str, sat_set: str) -> Partition:
        recipe = Recipe(
            corpus=corpus,
            reader=reader,
            partition="paper",
            target_set=target_set,
            sat_sets=(sat_set,),
            datadir=tmp_path / "data",
        )
        run_stage("data", recipe)
        return Partition.read(recipe.partition_file)

    return run


def test_librispeech_gives_the_ten_readers_split_id_by_id(librispeech, prepare, tmp_path):
    partition = prepare(librispeech, "librispeech", "train-clean-360", "train-clean-100")

    assert {split: len(partition.utterances(split)) for split in ("train", "dev", "test")} == {
        **{"train": 632, "dev": 316, "test": 632}
    }
    assert partition.speakers("test") == sorted(CHAPTERS)
    for reader, chapters in CHAPTERS.items():
        names = [f"{reader}-{chapter}-{index:04d}" for chapter, count in chapters.items() for index in range(count)]
        for split, expected in paper_split(names).items():
            assert partition.utterances(split, reader) == expected
    assert len(read_data_folder(tmp_path / "data/train-clean-360")) == 1580


def test_pre_training_on_train_clean_100_is_without_target_readers(librispeech, prepare, tmp_path):
    partition = prepare(librispeech, "librispeech", "train-clean-360", "train-clean-100")

    assert partition.speakers("sat_train") + partition.speakers("sat_dev") == ["3", "4", "5"]
    assert (
        "115-9-0000\t115\ttrain-clean-100\tSAT utterances of a target" in (tmp_path / "data/left_out.tsv").read_text()
    )


def test_a_reader_who_lacks_an_utterance_stops_stage_1_with_its_name(librispeech, prepare):
    (librispeech / "train-clean-360/525/126965/525-126965-0150.flac").unlink()

    with pytest.raises(PqmError, match=r"525 has 153 utterances where 154 are listed .without 525-126965-0150.: "):
        prepare(librispeech, "librispeech", "train-clean-360", "train-clean-100")


def test_a_set_without_the_readers_is_named(librispeech, prepare):
    shutil.rmtree(librispeech / "train-clean-100/115")

    with pytest.raises(PqmError, match="set train-clean-100 holds none of the utterances of partition paper"):
        prepare(librispeech, "librispeech", "train-clean-100", "train-clean-360")


def test_tedlium_maps_the_listed_places_onto_the_cleaned_segments(tedlium, prepare, tmp_path):
    partition = prepare(tedlium, "tedlium3", "speaker-adaptation", "speaker-adaptation-train")

    assert {split: len(partition.utterances(split)) for split in ("train", "dev", "test")} == {
        **{"train": 1033, "dev": 516, "test": 1031}
    }
    texts = {each.utterance: each.text for each in read_data_folder(tmp_path / "data/speaker-adaptation")}
    assert partition.utterances("dev", "AmandaBurden")[:3] == [f"AmandaBurden_2014-{n:04d}" for n in (8, 12, 15)]
    assert all(text == f"it's number n{int(name[-4:])}" for name, text in texts.items())
    assert partition.speakers("sat_train") + partition.speakers("sat_dev") == ["Other", "Teacher"]
    told = read_json(tmp_path / "data/overlap.json")["AmandaBurden"]
    assert (told["same_source"], told["shared_sources"]) == (told["utterances"], ["AmandaBurden_2014"])


def test_a_talk_with_another_number_of_segments_stops_stage_1_with_the_difference(tedlium, prepare):
    stm = tedlium / "TEDLIUM_release-3/speaker-adaptation/test/stm/BenDunlap_2007.stm"
    stm.write_text(stm.read_text().replace("an <unk> word", "a known word", 1))

    message = (
        "1 of 16 groups do not fit the corpus, which has 2581 utterances for the 2580 that are listed: BenDunlap_2007 "
        "has 161 utterances where 160 are listed .and also BenDunlap_2007-0160."
    )
    with pytest.raises(PqmError, match=message):
        prepare(tedlium, "tedlium3", "speaker-adaptation", "speaker-adaptation-train")
