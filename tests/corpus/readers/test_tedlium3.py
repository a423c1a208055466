"""TED-LIUM 3 is read as it is distributed, oddities and all."""

import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pqm_plugin.corpus.audio import load_audio, probe
from pqm_plugin.corpus.readers.tedlium3 import available_sets, clean, read, speaker_of
from pqm_plugin.errors import PqmError

STM = """;; LABEL "o" "Overall" "Overall results"
AlGore_2009 1 inter_segment_gap 0 1.50 <o,,unknown> ignore_time_segment_in_scoring
AlGore_2009 1 AlGore 4.00 5.00 <o,f0,male> the students ' work(2) {NOISE}\x20
AlGore_2009 1 AlGore 1.50 2.50 <o,f0,male> it 's <sil> a read(2) book\x20
AlGore_2009 1 AlGore 2.50 4.00 <o,f0,male> where <unk> lives\x20
AlGore_2009 1 AlGore 5.00 6.00 <o,f0,male> ignore_time_segment_in_scoring
AlGore_2009 1 AlGore 6.00 7.00 <NA> don 't get 'em\x20
"""


def write_talk(folder: Path, talk: str, stm: str, length_s: float = 8.0) -> None:
    """Write a talk of a ramp, so that each sample tells its place."""
    for kind in ("sph", "stm"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    ramp = (np.arange(round(length_s * 16000)) % 30000).astype(np.int16)
    soundfile.write(folder / "sph" / f"{talk}.sph", ramp, 16000, "PCM_16", "LITTLE", "NIST")
    (folder / "stm" / f"{talk}.stm").write_text(stm)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    write_talk(tmp_path / "TEDLIUM_release-3/legacy/dev", "AlGore_2009", STM)
    return tmp_path


def test_segments_are_numbered_in_the_order_of_time_without_what_is_not_scored_or_not_known(corpus: Path) -> None:
    found = list(read(corpus, "legacy-dev"))

    assert [(each.utterance, each.start_s, each.end_s, each.text) for each in found] == [
        ("AlGore_2009-0000", 1.5, 2.5, "it's a read book"),
        ("AlGore_2009-0001", 4.0, 5.0, "the students' work"),
        ("AlGore_2009-0002", 6.0, 7.0, "don't get 'em"),
    ]
    assert {(each.speaker, each.recording, each.source) for each in found} == {("AlGore", "AlGore_2009", "AlGore_2009")}


def test_what_is_left_out_is_counted_in_the_log(corpus: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        list(read(corpus, "legacy-dev"))

    assert "set legacy-dev: 1 talks, 3 segments; left out: 2 not to be scored, 1 with <unk>" in caplog.messages


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("i 'm sure they 're here", "i'm sure they're here"),
        ("rock 'n roll in the '90s", "rock 'n roll in the '90s"),
        ("it was o 'clock 'til noon", "it was o'clock 'til noon"),
        ("the(2) end (AlGore_2009-16.92-23.45-F0_M-S75)", "the end"),
        ("{SMACK} <sil>", ""),
    ],
)
def test_words_are_left_and_marks_go(written: str, words: str) -> None:
    assert clean(written) == words


@pytest.mark.parametrize(
    ("talk", "speaker"),
    [
        ("AlGore_2009", "AlGore"),
        ("GeorgePapandreou_2013G", "GeorgePapandreou"),
        ("DanBarber_2010_S103", "DanBarber"),
        ("NoYear", "NoYear"),
    ],
)
def test_the_speaker_is_the_person_in_all_talks(talk: str, speaker: str) -> None:
    assert speaker_of(talk) == speaker


def test_a_segment_is_read_from_its_place_and_nothing_else_of_the_talk(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [_, second, _] = read(corpus, "legacy-dev")
    asked = []
    plain = soundfile.SoundFile.read
    monkeypatch.setattr(
        soundfile.SoundFile, "read", lambda self, frames=-1, **k: asked.append(frames) or plain(self, frames, **k)
    )

    samples = load_audio(second, 16000)

    assert asked == [16000]
    assert samples[0] * 32768 == (4 * 16000) % 30000
    assert probe(second).duration_s == 1.0
    assert Path(second.audio).read_bytes().startswith(b"NIST_1A\n   1024\n")


def test_sets_are_those_of_both_layouts_and_a_layout_is_its_three_sets_together(corpus: Path) -> None:
    root = corpus / "TEDLIUM_release-3"
    write_talk(root / "data", "BonoHewson_2005", "BonoHewson_2005 1 BonoHewson_2005 0 1 <NA> one\n")
    for part in ("legacy/train", "speaker-adaptation/train"):
        (root / part).mkdir(parents=True)
        (root / part / "stm").symlink_to("../../data/stm")

    assert available_sets(corpus) == [
        *("legacy", "legacy-dev", "legacy-train"),
        *("speaker-adaptation", "speaker-adaptation-train"),
    ]
    assert {each.speaker for each in read(root, "legacy")} == {"AlGore", "BonoHewson"}
    [only] = read(corpus, "speaker-adaptation-train")  # its sph link is lost: the talk is found where that points
    assert only.audio == str(root / "data/sph/BonoHewson_2005.sph")


def test_holes_are_yielded_with_the_missing_half_empty(corpus: Path) -> None:
    folder = corpus / "TEDLIUM_release-3/legacy/dev"
    (folder / "sph/AlGore_2009.sph").rename(folder / "sph/Bono_2005.sph")

    found = {each.utterance: (bool(each.audio), bool(each.text)) for each in read(corpus, "legacy-dev")}

    assert found == {
        **{f"AlGore_2009-000{number}": (False, True) for number in range(3)},
        "Bono_2005": (True, False),
    }


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("AlGore_2009 1 AlGore 1.5", r"AlGore_2009.stm:1: not 'talk channel speaker start end"),
        ("AlGore_2009 1 AlGore two 3 <NA> hi", r":1: not 'talk"),
        ("AlGore_2009 1 AlGore 3 3 <NA> hi", r":1: start 3.0 s and end 3.0 s are not a part"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(corpus: Path, line: str, words: str) -> None:
    (corpus / "TEDLIUM_release-3/legacy/dev/stm/AlGore_2009.stm").write_text(line + "\n")

    with pytest.raises(PqmError, match=words):
        list(read(corpus, "legacy-dev"))


def test_a_missing_set_is_an_error_that_names_what_is_there(corpus: Path) -> None:
    with pytest.raises(PqmError, match="no set legacy-dve .nearest: legacy-dev"):
        list(read(corpus, "legacy-dve"))
    with pytest.raises(PqmError, match="nowhere is not a folder"):
        available_sets(corpus / "nowhere")
