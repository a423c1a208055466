"""Words that are kept with a speaker, or given at transcription: by command, in Python, in packs, beside the page."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

import pqm_plugin
from pqm_plugin.commands.__main__ import main
from pqm_plugin.errors import PqmError
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.page.desk import Desk
from pqm_plugin.page.guard import Limits
from pqm_plugin.personal.enrollment import forget
from pqm_plugin.personal.folder import ModelFolder
from pqm_plugin.personal.making import quantize
from pqm_plugin.personal.model import PersonalModel
from pqm_plugin.personal.options import EnrollOptions
from pqm_plugin.personal.packing import pack
from pqm_plugin.personal.unpacking import unpack
from pqm_plugin.words import read_words
from tests.page.fakes import FakeModel, write_adapter, write_speech
from tests.personal.conftest import TEXTS, noise

HEAVY = "zqx\t10\n"


@pytest.fixture
def known(conformer) -> ModelFolder:
    """A Conformer's folder in which ada and bob seem to be enrolled."""
    for name in ("ada", "bob"):
        write_adapter(conformer / "speakers" / name, name)
    return ModelFolder(conformer)


@pytest.fixture
def words(tmp_path) -> Path:
    path = tmp_path / "words.txt"
    path.write_text("Kaliko\nNome King\t2\n")
    return path


def pqm(*arguments):
    return main([*map(str, arguments), "--quiet"])


def test_words_are_kept_shown_replaced_counted_and_cleared(known, words, capsys):
    assert pqm("words", known.path, words, "--speaker", "ada") == 0
    assert capsys.readouterr().out == "ada: 2 words\n"
    assert pqm("words", known.path, "--speaker", "ada") == 0
    assert capsys.readouterr().out == words.read_text()
    words.write_text("Roquat\n")
    assert pqm("words", known.path, words, "--speaker", "ada") == 0
    assert pqm("words", known.path) == 0
    assert capsys.readouterr().out == "ada: 1 words\nada\t1\nbob\t0\n"
    assert pqm("words", known.path, "--speaker", "ada", "--clear") == 0
    assert pqm("words", known.path, "--speaker", "ada", "--clear") == 0
    assert capsys.readouterr().out == "ada: no words any more\nada: there were no words\n"
    assert pqm("words", known.path, "--speaker", "ada") == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("list_", "options", "why"),
    [
        ("Ada\n", ["--speaker", "ghost"], "has no speaker 'ghost'"),
        ("Ada\n", [], "words are kept with a speaker: name one with --speaker"),
        ("Ada\n", ["--speaker", "ada", "--clear"], "choose one"),
        ("\n", ["--speaker", "ada"], "has no words: write one a line"),
        ("R2D2\n", ["--speaker", "ada"], "the model cannot write '2' of 'R2D2'"),
        ("Zoë\n", ["--speaker", "ada"], "the model cannot write 'ë' of 'Zoë'"),
    ],
)
def test_what_is_wrong_with_words_is_one_line_and_earlier_ones_stay(known, words, capsys, list_, options, why):
    assert pqm("words", known.path, words, "--speaker", "ada") == 0
    words.write_text(list_)

    assert pqm("words", known.path, words, *options) == 1

    said = capsys.readouterr().err
    assert why in said
    assert said.count("\n") == 1
    assert len(read_words(known.words_file("ada")).entries) == 2


def test_a_model_that_takes_the_best_path_is_told_no_words(tiny_ctc, tmp_path, words, capsys):
    quantize(str(tiny_ctc), tmp_path / "ctc")
    write_adapter(tmp_path / "ctc/speakers/ada", "one")

    assert pqm("words", tmp_path / "ctc", words, "--speaker", "ada") == 1
    assert pqm("transcribe", tmp_path / "ctc", "a.wav", "--words", words) == 1
    assert capsys.readouterr().err.count("takes the best path and cannot be told words: leave them out") == 2
    with pytest.raises(PqmError, match="cannot be told words"):
        pqm_plugin.load(tmp_path / "ctc").transcribe(noise(0), words=words)


def test_a_speaker_who_is_forgotten_leaves_no_words(known, words):
    assert pqm("words", known.path, words, "--speaker", "ada") == 0

    forget(known, "ada")

    assert not known.words_file("ada").exists()


def test_the_page_hears_anew_when_words_have_changed(tmp_path):
    (tmp_path / "model").mkdir()
    fake = FakeModel(tmp_path / "model")
    desk, sound = Desk(fake, Limits()), write_speech(tmp_path / "a.wav", 1.0)
    write_adapter(fake.folder.path / "speakers/ada", "one")
    for text in ("Kaliko\n", "Kaliko\n", "Roquat\n"):
        fake.folder.words_file("ada").parent.mkdir(exist_ok=True)
        fake.folder.words_file("ada").write_text(text)
        desk.compare(sound, "ada", lambda side, part: None)

    assert fake.heard == ["none", "speakers/ada", "speakers/ada"]


@pytest.mark.slow
def test_words_that_are_kept_are_expected_of_their_speaker_alone_and_go_along_in_a_pack(folder, tmp_path, capsys):
    search = SearchOptions(beam_size=4, guard="never")
    options = EnrollOptions(rank=1, epochs=1, learning_rate=0.01)
    model = PersonalModel(folder, search)
    for name, place in (("ada", 0), ("bob", 1)):
        model.enroll(name, [noise(place + 2 * n) for n in range(2)], TEXTS[:2], options=options)
    clip = noise(7)
    before = {name: model.transcribe(clip, name).text for name in ("ada", "bob", None)}
    (tmp_path / "heavy.txt").write_text(HEAVY)

    assert pqm("words", folder, tmp_path / "heavy.txt", "--speaker", "ada") == 0

    after = {name: model.transcribe(clip, name).text for name in ("ada", "bob", None)}
    assert "zqx" in after["ada"].lower()
    assert {**before, "ada": ""} == {**after, "ada": ""}
    assert model.transcribe(clip, "bob", words=["zqx\t10"]).text != before["bob"]
    assert "zqx" in model.transcribe(clip, words=tmp_path / "heavy.txt").text.lower()
    # Calls of several speakers in one batch, as the API computes them.
    speech, folders = (
        [np.asarray(clip, np.float32) / 32768] * 2,
        [model.folder.speaker(name) for name in ("ada", "bob")],
    )
    assert [one.text for one in model.search(speech, folders, "en")] == [after["ada"], before["bob"]]
    pack(folder, tmp_path / "all.pqm")
    assert (
        PersonalModel(unpack(tmp_path / "all.pqm", tmp_path / "out").path, search).transcribe(clip, "ada").text
        == after["ada"]
    )
    pack(folder, tmp_path / "bob.pqm", speakers=["bob"])
    assert not (unpack(tmp_path / "bob.pqm", tmp_path / "bob").path / "words").exists()
    # Learning the voice anew keeps the words.
    model.enroll("ada", [noise(9)], TEXTS[:1], options=options)
    assert len(read_words(model.folder.words_file("ada")).entries) == 1


@pytest.mark.slow
def test_words_given_at_the_command_line_are_written_where_they_are_heard(folder, tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", noise(7), 16000)
    (tmp_path / "heavy.txt").write_text(HEAVY)
    say = ["transcribe", folder, tmp_path / "a.wav", "--beam_size", "4", "--guard", "never"]

    assert pqm(*say) == 0
    plain = capsys.readouterr().out
    assert pqm(*say, "--words", tmp_path / "heavy.txt") == 0
    told = capsys.readouterr().out

    assert "zqx" not in plain.lower()
    assert "zqx" in told.lower()
    (tmp_path / "heavy.txt").write_text("# nothing\n")
    assert pqm(*say, "--words", tmp_path / "heavy.txt") == 1
    assert "has no words" in capsys.readouterr().err
