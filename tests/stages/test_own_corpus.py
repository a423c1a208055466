"""Stage 1 of a user's own corpus, and a corpus of one person."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile

from pqm_plugin.corpus.partition import Partition
from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json
from pqm_plugin.stages.data import prepare_data
from tests.stages.conftest import one_family

MakeTable = Callable[..., Path]


@pytest.fixture
def make_table(tmp_path: Path) -> MakeTable:
    """Return a function that writes a table of so many recordings for each speaker, then some further lines."""

    def make(*more: str, **counts: int) -> Path:
        lines = ["path\ttext\tspeaker"]
        for speaker, count in counts.items():
            for number in range(count):
                name = f"{speaker}-{number}.wav"
                noise = np.random.default_rng(number).integers(-3000, 3000, 16000, dtype=np.int16)
                soundfile.write(tmp_path / name, noise, 16000)
                lines.append(f"{name}\tword {number % 3}\t{speaker}")
        (tmp_path / "t.tsv").write_text("\n".join([*lines, *more]) + "\n")
        return tmp_path / "t.tsv"

    return make


def test_lines_whose_audio_is_bad_are_named_shown_up_to_ten_and_left_out(
    make_table: MakeTable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    more = [f"gone{number}.wav\tx\ta" for number in range(11)]
    table = make_table("a-0.wav\t\ta", "cut.wav\tx\ta", *more, a=2, b=5, c=2, d=1)
    (tmp_path / "cut.wav").write_bytes((tmp_path / "a-0.wav").read_bytes()[:9000])

    with caplog.at_level(logging.WARNING):
        summary = prepare_data(table, "own", tmp_path / "data", "own", ["own"], speakers=["b"])

    lost = (tmp_path / "data/left_out.tsv").read_text().splitlines()[1:]
    assert len(lost) == 13
    assert f"-\ta\town\t{table}:12: text is empty: fill it in, or delete the line" in lost
    assert any(line.startswith(f"a-cut\ta\town\t{table}:13: ") and "cut off" in line for line in lost)
    assert any(f"{table}:24: " in line and "gone10.wav" in line and "is missing" in line for line in lost)
    assert sum(f"{table}:" in message for message in caplog.messages) == 10
    assert summary.warnings == (f"set own: 13 lines cannot be used: all are named in {tmp_path / 'data/left_out.tsv'}",)
    assert summary.sets["own"].n_utterances == 10


def test_a_corpus_of_bad_lines_alone_is_an_error_that_shows_the_first(make_table: MakeTable, tmp_path: Path) -> None:
    with pytest.raises(PqmError, match=r"none of 2 utterances .* the first: .*t.tsv:2: .*gone.wav.* is missing"):
        prepare_data(make_table("gone.wav\tx\ta", "away.wav\tx\ta"), "own", tmp_path / "data", "own", ["own"])


def test_one_set_is_shared_out_between_targets_and_teachers(make_table: MakeTable, tmp_path: Path) -> None:
    table = make_table(a=5, b=5, c=5, d=5)

    summary = prepare_data(table, "own", tmp_path / "data", "own", ["own"])

    partition = Partition.read(summary.partition)
    assert partition.speakers("test") == ["b", "d"]
    assert (partition.speakers("sat_train"), partition.speakers("sat_dev")) == (["a"], ["c"])
    assert summary.speakers_left_out == {}
    told = read_json(tmp_path / "data/overlap.json")
    # Words 0 and 1 are train, 2 dev, 0 and 1 again test.
    assert told["b"] | {"words": 4} == {
        **{"utterances": 2, "words": 4, "same_text": 2, "same_text_words": 4, "same_text_sat": 2},
        **{"same_source": None, "shared_sources": None},
    }


def test_two_speakers_are_too_few_to_share_out_and_the_remedy_is_named(make_table: MakeTable, tmp_path: Path) -> None:
    with pytest.raises(PqmError, match="1 SAT speakers are left.*--sat_sets ''"):
        prepare_data(make_table(a=5, b=5), "own", tmp_path / "data", "own", ["own"])
    with pytest.raises(PqmError, match="nobody is left for SAT.*--sat_sets ''"):
        prepare_data(make_table(a=5), "own", tmp_path / "data", "own", ["own"])


@pytest.mark.slow
def test_one_person_alone_gets_an_adapter_that_starts_from_zero(make_table, tmp_path, recipe, run, caplog):
    recipe.pqm_config.write_text(recipe.pqm_config.read_text().replace("{epochs", "{criterion: loss, epochs"))
    alone = dataclasses.replace(
        recipe, corpus=make_table(me=6), reader="own", target_set="own", sat_sets=(), systems=("nf4", "nf4+speaker")
    )
    run("data", "base", "quantize", "pretrain", "adapt", "decode", "score", "report", of=alone)

    assert "there is nothing to pre-train on" in caplog.text
    assert not (alone.packed_dir / "sat").exists()
    results = read_json(alone.packed_dir / "results.json")
    assert list(results["systems"]) == ["nf4", "nf4+speaker"]
    assert results["meta"]["overlap"]["me"]["utterances"] == 2
    assert "Overlap: of 2 test utterances" in (alone.packed_dir / "RESULTS.md").read_text()


@pytest.fixture
def kaldi(tmp_path: Path) -> Path:
    """A Kaldi folder of four speakers, five segments of a recording each: two files, a pipe and an archive."""
    folder = tmp_path / "kaldi"
    folder.mkdir()
    files = dict.fromkeys(("wav.scp", "segments", "text", "utt2spk"), "")
    for place, speaker in enumerate(("ann", "ben", "carl", "dora")):
        noise = np.random.default_rng(place).integers(-3000, 3000, 5 * 16000, dtype=np.int16)
        wav = tmp_path / f"{speaker}.wav"
        soundfile.write(wav, noise, 16000)
        files["wav.scp"] += f"r-{speaker} " + (f"cat {wav} |\n" if speaker == "carl" else f"{wav}\n")
        for number in range(5):
            name = f"{speaker}-{number}"
            files["segments"] += f"{name} r-{speaker} {number}.0 {number + 0.8:.2f}\n"
            files["text"] += f"{name} {('GO ON', 'STOP NOW', 'A CAT')[number % 3]}\n"
            files["utt2spk"] += f"{name} {speaker}\n"
    kaldiio.save_ark(str(folder / "dora.ark"), {"r-dora": (16000, noise)}, scp=str(folder / "dora.scp"))
    offset = (folder / "dora.scp").read_text().rpartition(":")[2].strip()
    files["wav.scp"] = files["wav.scp"].replace(str(tmp_path / "dora.wav"), f"dora.ark:{offset}")
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


@pytest.mark.slow
@one_family
def test_segments_of_a_pipe_and_of_an_archive_go_through_every_stage(kaldi, recipe, run):
    here = dataclasses.replace(
        recipe,
        corpus=kaldi,
        reader="own",
        target_set="own",
        sat_sets=("own",),
        speakers=("carl", "dora"),
        systems=("espnet", "full", "nf4+sat", "nf4+speaker"),
    )

    run("data", "base", "quantize", "pretrain", "adapt", "decode", "score", "report", of=here)

    results = read_json(here.packed_dir / "results.json")
    assert set(results["systems"]) == set(here.systems)
    assert results["systems"]["full"]["errors"] == results["systems"]["espnet"]["errors"]
    assert {name: row["utterances"] for name, row in results["systems"]["nf4+speaker"]["speakers"].items()} == {
        **{"carl": 2, "dora": 2}
    }
    assert results["meta"]["overlap"]["carl"]["shared_sources"] == ["r-carl"]
