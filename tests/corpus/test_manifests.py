"""Manifests of lhotse that stage 1 writes: lhotse reads them, hears the same sound, and they come back as they went."""

import logging

import kaldiio
import numpy as np
import pytest
import soundfile

from pqm_plugin.corpus.audio import load_audio
from pqm_plugin.corpus.manifests import write_manifests
from pqm_plugin.corpus.readers.lhotse import read
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.stages.data import prepare_data

lhotse = pytest.importorskip("lhotse")


@pytest.fixture
def utterances(tmp_path):
    """A whole file, two parts of one of two channels, and one of both channels."""
    noise = np.random.default_rng(0).normal(0, 0.1, (32000, 2))
    soundfile.write(tmp_path / "one.wav", noise[:, 0], 16000)
    soundfile.write(tmp_path / "two.flac", noise, 16000)
    one, two = str(tmp_path / "one.wav"), str(tmp_path / "two.flac")
    return [
        Utterance("ann-1", "ann", "ONE TWO", one),
        Utterance("ann-2", "ann", "THREE", two, 0.25, 1.0, "talk", channel=0),
        Utterance("bob-1", "bob", "É ß", two, 1.0, None, "talk", channel=1),
        Utterance("bob-2", "bob", "ALL", two, 0.5, 0.75, "talk"),
    ]


def test_lhotse_reads_them_and_each_cut_is_the_same_sound(utterances, tmp_path):
    assert not write_manifests(tmp_path / "m", "dev", utterances, {"ann-2": "test"})

    cuts = lhotse.CutSet.from_file(tmp_path / "m/cuts_dev.jsonl.gz")
    for cut, utterance in zip(cuts, utterances, strict=True):
        [spoken] = cut.supervisions
        assert (cut.id, spoken.speaker, spoken.text) == (utterance.utterance, utterance.speaker, utterance.text)
        np.testing.assert_allclose(cut.load_audio().mean(axis=0), load_audio(utterance, 16000), atol=1e-6)
    recordings = lhotse.RecordingSet.from_file(tmp_path / "m/recordings_dev.jsonl.gz")
    supervisions = lhotse.SupervisionSet.from_file(tmp_path / "m/supervisions_dev.jsonl.gz")
    lhotse.validate_recordings_and_supervisions(recordings, supervisions)
    assert [each.custom for each in supervisions if each.custom] == [{"split": "test"}]


def test_they_come_back_as_they_went_and_twice_as_the_same_bytes(utterances, tmp_path):
    write_manifests(tmp_path / "m", "dev", utterances, {})
    before = {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()}

    write_manifests(tmp_path / "m", "dev", utterances, {})

    assert {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()} == before
    found = {each.utterance: each for each in read(tmp_path / "m", "dev")}
    for one in utterances:
        again = found[one.utterance]
        assert (again.speaker, again.text, again.audio, again.channel) == (
            one.speaker,
            one.text,
            one.audio,
            one.channel,
        )
        np.testing.assert_allclose(load_audio(again, 16000), load_audio(one, 16000), atol=1e-7)


def test_what_lies_in_an_archive_of_kaldi_is_left_out_by_name(tmp_path, caplog):
    noise = {f"a-{n}": (16000, np.random.default_rng(n).integers(-900, 900, 16000, dtype=np.int16)) for n in range(6)}
    folder = tmp_path / "kaldi"
    folder.mkdir()
    kaldiio.save_ark(str(folder / "x.ark"), {"a-0": noise["a-0"]}, scp=str(folder / "wav.scp"))
    for name in list(noise)[1:]:
        soundfile.write(folder / f"{name}.wav", noise[name][1], 16000)
        with (folder / "wav.scp").open("a") as file:
            file.write(f"{name} {folder / name}.wav\n")
    (folder / "text").write_text("".join(f"{name} word\n" for name in noise))
    (folder / "utt2spk").write_text("".join(f"{name} a\n" for name in noise))

    with caplog.at_level(logging.WARNING):
        prepare_data(folder, "own", tmp_path / "data", "own", [], lhotse=tmp_path / "data/lhotse")

    assert "lhotse reads no archives: 1 utterances are left out (a-0)" in caplog.text
    cuts = lhotse.CutSet.from_file(tmp_path / "data/lhotse/cuts_own.jsonl.gz")
    assert [cut.id for cut in cuts] == [f"a-{n}" for n in range(1, 6)]
    assert {cut.supervisions[0].custom["split"] for cut in cuts} == {"train", "dev", "test"}
