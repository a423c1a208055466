"""Stage 1 from a corpus to folders and a partition."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from pqm_plugin.corpus.kaldi import read_data_folder
from pqm_plugin.corpus.partition import Partition
from pqm_plugin.errors import PqmError
from pqm_plugin.stages.data import prepare_data

MakeCorpus = Callable[..., Path]


def texts(**counts: int) -> dict[str, str]:
    """Return that many utterances of each reader; a reader's name follows an underscore."""
    return {f"{reader[1:]}-5-{index:04d}": "A WORD" for reader, count in counts.items() for index in range(count)}


@pytest.fixture
def corpus(make_corpus: MakeCorpus) -> Path:
    return make_corpus({"dev": texts(_1=10, _2=5, _3=4), "train": texts(_1=2, _7=3, _8=3, _9=3), "seen": texts(_7=1)})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_folders_and_partition_are_written_and_summed_up(
    corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        summary = prepare_data(corpus, "librispeech", tmp_path / "data", "dev", ["train"])

    assert len(read_data_folder(tmp_path / "data/dev")) == 19
    partition = Partition.read(tmp_path / "data/partition.tsv")
    assert {split: (amount.n_speakers, amount.n_utterances) for split, amount in summary.splits.items()} == {
        "train": (2, 6),
        "dev": (2, 3),
        "test": (2, 6),
        "sat_train": (2, 6),
        "sat_dev": (1, 3),
    }
    assert partition.utterances("dev", "1") == ["1-5-0004", "1-5-0005"]
    assert summary.sets["dev"].duration_s == pytest.approx(1.9)
    assert "left out: speaker 3: target with 4 utterances, fewer than the 5 that a split needs" in caplog.messages
    assert sorted(summary.speakers_left_out) == ["1", "3"]


def test_every_lost_utterance_is_in_the_table_of_what_was_left_out(corpus: Path, tmp_path: Path) -> None:
    (corpus / "dev/1/5/1-5-0009.flac").unlink()
    (corpus / "dev/2/5/2-5.trans.txt").write_text("".join(f"2-5-000{index} X\n" for index in range(5)) + "2-5-0005 X\n")

    summary = prepare_data(corpus, "librispeech", tmp_path / "data", "dev", ["train"])

    lines = (tmp_path / "data/left_out.tsv").read_text().splitlines()
    assert "1-5-0009\t1\tdev\ttranscript without audio" in lines
    assert "2-5-0005\t2\tdev\ttranscript without audio" in lines
    assert "3-5-0000\t3\tdev\ttarget with 4 utterances, fewer than the 5 that a split needs" in lines
    assert "1-5-0000\t1\ttrain\tSAT utterances of a target speaker (2)" in lines
    assert len(lines) == 1 + 2 + 4 + 2
    assert "transcript without audio: 2 left out (1-5-0009, 2-5-0005)" in summary.warnings[0]


def test_a_second_run_writes_the_same_bytes_and_leaves_the_files_alone(corpus: Path, tmp_path: Path) -> None:
    prepare_data(corpus, "librispeech", tmp_path / "data", "dev", ["train"])
    before, written = contents(tmp_path / "data"), (tmp_path / "data/partition.tsv").stat().st_mtime_ns

    prepare_data(corpus, "librispeech", tmp_path / "data", "dev", ["train"])

    assert contents(tmp_path / "data") == before
    assert (tmp_path / "data/partition.tsv").stat().st_mtime_ns == written


def test_chosen_speakers_alone_are_targets_and_sets_named_twice_are_written_once(corpus: Path, tmp_path: Path) -> None:
    summary = prepare_data(corpus, "librispeech", tmp_path / "data", "dev", ["train"], "train", "dev", speakers=["2"])

    assert sorted(summary.sets) == ["dev", "train"]
    assert summary.splits["test"].n_speakers == 1
    assert summary.speakers_left_out == {}


def test_check_rows_and_targets_that_the_base_has_heard(corpus: Path, tmp_path: Path) -> None:
    (corpus / "seen").rename(corpus / "held")
    for path in sorted((corpus / "held").rglob("7-5*")):
        path.rename(path.with_name(path.name.replace("7-5", "7-6")))
    transcript = corpus / "held/7/5/7-6.trans.txt"
    transcript.write_text(transcript.read_text().replace("7-5", "7-6"))

    summary = prepare_data(corpus, "librispeech", tmp_path / "data", "dev", ["train"], "train", check_set="held")

    assert Partition.read(summary.partition).utterances("check") == ["7-6-0000"]
    assert summary.warnings == ("set train: 1 target speakers are in it (1): the base was trained on them",)


def test_broken_audio_stops_the_stage_and_leaves_earlier_results(
    corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepare_data(corpus, "librispeech", tmp_path / "data", "dev", ["train"])
    before = contents(tmp_path / "data")
    for name in ("1-5-0003", "2-5-0001"):
        path = corpus / "dev" / name[0] / "5" / f"{name}.flac"
        path.write_bytes(path.read_bytes()[:-200])

    with pytest.raises(PqmError, match="set dev: 2 of 19 audio files cannot be used, the first: .*1-5-0003.flac"):
        prepare_data(corpus, "librispeech", tmp_path / "data", "dev", ["train"])

    assert contents(tmp_path / "data") == before
    assert any("2-5-0001.flac" in message for message in caplog.messages)


def test_wrong_names_are_errors_with_the_nearest_ones(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(PqmError, match="nearest: train"):
        prepare_data(corpus, "librispeech", tmp_path / "data", "dev", ["trian"])
    with pytest.raises(PqmError, match="no such speaker in the target set: 11 .nearest: 1"):
        prepare_data(corpus, "librispeech", tmp_path / "data", "dev", ["train"], speakers=["11"])
    with pytest.raises(PqmError, match="set name '../x'"):
        prepare_data(corpus, "librispeech", tmp_path / "data", "../x", ["train"])
    assert not (tmp_path / "data").exists()


def test_a_speaker_whose_name_cannot_be_a_folder_is_an_error(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    corpus = make_corpus({"dev": {f"a b-5-000{index}": "X" for index in range(5)}})
    for path in sorted((corpus / "dev").rglob("*.trans.txt")):
        path.unlink()
    folder = corpus / "dev/_x/5"
    folder.mkdir(parents=True)
    for index in range(5):
        soundfile.write(folder / f"_x-5-000{index}.flac", [0.1] * 100, 16000)
    (folder / "_x-5.trans.txt").write_text("".join(f"_x-5-000{index} A\n" for index in range(5)))

    with pytest.raises(PqmError, match="speaker name '_x' cannot be a folder name"):
        prepare_data(corpus, "librispeech", tmp_path / "data", "dev", [])


@pytest.mark.parametrize("name", ["../../x", "con", "\N{GRINNING FACE}", "a" * 300])
def test_a_speaker_of_a_table_whose_name_cannot_be_a_folder_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    rows = ["path\ttext\tspeaker"]
    for index in range(5):
        soundfile.write(tmp_path / f"in/{index}.wav", [0.1] * 1600, 16000)
        rows.append(f"{index}.wav\tGO ON\t{name}")
    (tmp_path / "in/corpus.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")

    with pytest.raises(PqmError, match="speaker name .* cannot be a folder name"):
        prepare_data(tmp_path / "in/corpus.tsv", "own", tmp_path / "data", "own", [])

    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_set_without_one_whole_utterance_is_an_error(corpus: Path, tmp_path: Path) -> None:
    for path in (corpus / "dev").rglob("*.flac"):
        path.unlink()

    with pytest.raises(PqmError, match="set dev is empty: none of 19 utterances"):
        prepare_data(corpus, "librispeech", tmp_path / "data", "dev", ["train"])


@pytest.mark.real
def test_the_real_ten_readers_are_prepared(shared: Path, tmp_path: Path) -> None:
    summary = prepare_data(shared / "data", "librispeech", tmp_path / "data", "dev-clean", ["train-clean-5"])

    assert str(summary.sets["dev-clean"]) == "10 speakers, 794 utterances, 1.35 h"
    assert {split: amount.n_utterances for split, amount in summary.splits.items()} == {
        **{"train": 318, "dev": 158, "test": 318},
        **{"sat_train": 168, "sat_dev": 28},
    }
    assert summary.speakers_left_out == {} and summary.warnings == ()
