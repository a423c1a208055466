"""Names that differ in Unicode normalisation alone are the same, and a mark of byte order is not part of a text."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pqm_plugin.corpus.kaldi import FILES, read_data_folder
from pqm_plugin.corpus.partition import find_listing
from pqm_plugin.corpus.readers import librispeech, tedlium3
from pqm_plugin.corpus.readers.own import read
from pqm_plugin.corpus.recording import load_sound
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.corpus.validate import validate
from pqm_plugin.errors import PqmError
from pqm_plugin.personal.recordings import find_recordings
from pqm_plugin.stages.data import prepare_data

NFC, NFD = (unicodedata.normalize(form, "Grüße José") for form in ("NFC", "NFD"))
BOM = "\ufeff"
FORMS = pytest.mark.parametrize(("listed", "stored"), [(NFC, NFD), (NFD, NFC)], ids=["NFD on disk", "NFC on disk"])


def record(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).integers(-3000, 3000, 16000, dtype=np.int16), 16000)
    return path


def usable(found: list[Utterance]) -> list[tuple[str, str]]:
    assert [each.problem for each in found] == [""] * len(found)
    return [(each.text, each.audio) for each in found]


@FORMS
def test_an_enrolments_list_finds_files_of_the_other_normalisation(tmp_path: Path, listed: str, stored: str) -> None:
    path = record(tmp_path / f"{stored}.wav")
    (tmp_path / "list").write_text(f"{listed}\tGO ON\n", encoding="utf-8")

    found = find_recordings([tmp_path], tmp_path / "list")

    assert (found.paths, found.texts) == ((path,), ("GO ON",))


@FORMS
def test_a_text_beside_a_recording_and_a_file_that_is_named_are_found(tmp_path: Path, listed: str, stored: str) -> None:
    path = record(tmp_path / f"{stored}.wav")
    (tmp_path / f"{listed}.txt").write_text(f"{BOM}GO ON\n", encoding="utf-8")

    assert find_recordings([tmp_path]).texts == ("GO ON",)
    assert find_recordings([tmp_path / f"{listed}.wav"]).paths == (path,)
    assert len(load_sound(tmp_path / f"{listed}.wav", 16000)) == 16000


def test_two_files_that_differ_in_normalisation_alone_are_meant_by_their_spelling_or_said(tmp_path: Path) -> None:
    files = [record(tmp_path / "one" / f"{name}.wav") for name in (NFC, NFD)]
    (tmp_path / "list").write_text(f"{NFC}\tGO\n{NFD}\tSTOP\n", encoding="utf-8")

    found = find_recordings([tmp_path / "one"], tmp_path / "list")

    assert dict(zip(found.paths, found.texts or (), strict=True)) == {files[0]: "GO", files[1]: "STOP"}
    mixed = NFC.split()[0] + " " + NFD.split()[1]
    (tmp_path / "list").write_text(f"{mixed}\tGO\n", encoding="utf-8")
    with pytest.raises(PqmError, match="differ only in Unicode normalisation"):
        find_recordings([tmp_path / "one"], tmp_path / "list")
    with pytest.raises(PqmError, match="differ only in Unicode normalisation: rename one"):
        load_sound(tmp_path / "one" / f"{mixed}.wav", 16000)


@FORMS
def test_tables_and_kaldi_folders_find_files_of_the_other_normalisation(
    tmp_path: Path, listed: str, stored: str
) -> None:
    path = record(tmp_path / stored / f"{stored}.wav")
    (tmp_path / "t.tsv").write_text(f"path\ttext\tspeaker\n{listed}/{listed}.wav\tGO\tann\n", encoding="utf-8")
    folder = tmp_path / "kaldi"
    folder.mkdir()
    (folder / "wav.scp").write_text(f"{stored.split()[0]} {tmp_path}/{listed}/{listed}.wav\n", encoding="utf-8")
    (folder / "segments").write_text(f"a-1 {listed.split()[0]} 0 1\n", encoding="utf-8")
    (folder / "text").write_text("a-1 GO\n")
    (folder / "utt2spk").write_text("a-1 ann\n")

    assert usable(list(read(tmp_path / "t.tsv", "own"))) == [("GO", str(path))]
    assert usable(list(read(folder, "own"))) == [("GO", str(path))]


@FORMS
def test_folders_by_speaker_and_corpora_find_texts_of_the_other_normalisation(
    tmp_path: Path, listed: str, stored: str
) -> None:
    listed, stored = listed.replace(" ", "_"), stored.replace(" ", "_")
    own = [record(tmp_path / "own/ann" / f"{stored}{number}.wav", number) for number in range(2)]
    (tmp_path / "own/ann" / f"{listed}0.txt").write_text("GO\n")
    (tmp_path / "own/ann/texts.txt").write_text(f"{listed}1 STOP\n", encoding="utf-8")
    libri = record(tmp_path / "libri/dev/1/2" / f"1-2-{stored}.flac")
    (libri.parent / "1-2.trans.txt").write_text(f"{BOM}1-2-{listed} GO\n", encoding="utf-8")
    talk = record(tmp_path / "ted/legacy/dev/sph" / f"{stored}.wav").with_suffix(".sph")
    soundfile.write(talk, np.ones(16000), 16000, format="NIST")
    stm = tmp_path / "ted/legacy/dev/stm" / f"{listed}.stm"
    stm.parent.mkdir()
    stm.write_text(f"{BOM}{listed} 1 {listed} 0.0 0.9 <o,f0,male> go on\n", encoding="utf-8")

    assert usable(list(read(tmp_path / "own", "own"))) == [("GO", str(own[0])), ("STOP", str(own[1]))]
    assert usable(list(librispeech.read(tmp_path / "libri", "dev"))) == [("GO", str(libri))]
    assert usable(list(tedlium3.read(tmp_path / "ted", "legacy-dev"))) == [("go on", str(talk))]


def test_validate_says_where_a_path_is_spelled_in_another_normalisation(tmp_path: Path) -> None:
    write(tmp_path / "set", record(tmp_path / f"{NFD}.wav").with_name(f"{NFC}.wav"))

    [problem] = validate(tmp_path / "set")

    assert (problem.severity, problem.line) == ("warning", 1) and "normalisation" in problem.what


def write(folder: Path, audio: Path, lead: str = "", encoding: str = "utf-8") -> Path:
    folder.mkdir()
    contents = {"wav.scp": f"a-1 {audio}", "text": "a-1 GO", "utt2spk": "a-1 a", "spk2utt": "a a-1"}
    for name, line in contents.items():
        (folder / name).write_text(f"{lead}{line}\n", encoding=encoding)
    return folder


def test_a_mark_of_byte_order_in_kaldi_files_is_skipped_said_by_validate_and_not_written_again(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", record(tmp_path / "a.wav"), BOM)
    for number in range(2, 7):
        for name, value in (("wav.scp", tmp_path / "a.wav"), ("text", "GO"), ("utt2spk", "a")):
            with (folder / name).open("a", encoding="utf-8") as file:
                file.write(f"{BOM if number == 4 else ''}a-{number} {value}\n")
    (folder / "spk2utt").unlink()

    prepare_data(folder, "own", tmp_path / "data", "own", [])

    assert [each.utterance for each in read_data_folder(tmp_path / "data/own")] == [f"a-{n}" for n in range(1, 7)]
    assert all(BOM.encode() not in (tmp_path / "data/own" / name).read_bytes() for name in FILES)
    assert validate(tmp_path / "data/own") == []
    found = [each for each in validate(folder) if each.file.name != "spk2utt"]
    assert [(each.file.name, each.line, each.severity) for each in found] == [
        (name, 1, "warning") for name in ("wav.scp", "text", "utt2spk")
    ]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_a_file_of_utf_16_is_one_line_that_names_it_and_the_remedy(tmp_path: Path, encoding: str) -> None:
    folder = write(tmp_path / "kaldi", record(tmp_path / "own/a.wav"), encoding=encoding)
    (tmp_path / "t.tsv").write_text("path\ttext\tspeaker\nown/a.wav\tGO\ta\n", encoding=encoding)
    (tmp_path / "own/a.txt").write_text("GO\n", encoding=encoding)
    trans = tmp_path / "libri/dev/1/2/1-2.trans.txt"
    trans.parent.mkdir(parents=True)
    trans.write_text("1-2-3 GO\n", encoding=encoding)

    for step in (
        lambda: list(read(folder, "own")),
        lambda: list(read(tmp_path / "t.tsv", "own")),
        lambda: find_recordings([tmp_path / "own"]),
        lambda: find_recordings([tmp_path / "own"], trans),
        lambda: list(librispeech.read(tmp_path / "libri", "dev")),
    ):
        with pytest.raises(PqmError, match=r"UTF-16.*iconv -f UTF-16") as raised:
            step()
        assert str(tmp_path) in str(raised.value) and "\n" not in str(raised.value)
    assert {each.what for each in validate(folder)} == {"is not UTF-8 (UTF-16 by its first bytes)"}


def test_a_partition_with_a_mark_of_byte_order_is_read(tmp_path: Path) -> None:
    group = '{"total": 3, "train": "0", "dev": "1", "test": "2"}'
    text = f'{{"counts": {{"train": 1, "dev": 1, "test": 1}}, "groups": {{"a": {group}}}}}'
    (tmp_path / "p.json").write_text(BOM + text, encoding="utf-8")

    assert find_listing(str(tmp_path / "p.json"), "own").split_of == {"a-0": "train", "a-1": "dev", "a-2": "test"}
