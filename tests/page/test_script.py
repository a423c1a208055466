"""A new speaker reads sentence after sentence; every step can be taken back."""

from pathlib import Path

import pytest

from pqm_plugin.errors import PqmError
from pqm_plugin.page.desk import Reading
from pqm_plugin.page.script import SENTENCES, Kept, Script, read_sentences


def kept(text: str) -> Kept:
    return Kept(text, Path(f"{text}.wav"), 2.0)


def test_keeping_and_skipping_lead_to_the_end_where_words_of_ones_own_may_follow():
    script = Script(("one", "two"))

    end = script.keep(kept("one")).skip()
    more = end.keep(kept("my own"))

    assert script.where == "Sentence 1 of 2" and script.kept == ()
    assert end.sentence == "" and end.where.startswith("All sentences are read")
    assert more.readings() == [Reading(Path("one.wav"), "one"), Reading(Path("my own.wav"), "my own")]


def test_what_is_taken_back_is_asked_for_again():
    script = Script(("one", "two", "three")).keep(kept("one")).skip()

    again = script.take_back()

    assert again.kept == () and again.sentence == "one"


def test_words_of_ones_own_are_taken_back_without_moving_in_the_script():
    script = Script(("one", "two")).keep(kept("other words"))

    assert script.take_back().sentence == "two"


@pytest.mark.parametrize(
    ("step", "why"),
    [
        (lambda: Script(("one",)).keep(Kept(" ", Path("a"), 1.0)), "no words"),
        (lambda: Script(("one",)).take_back(), "nothing is kept"),
        (lambda: Script(("one",)).readings(), "nothing is kept"),
    ],
)
def test_what_cannot_be_done_is_said(step, why):
    with pytest.raises(PqmError, match=why):
        step()


def test_the_sentences_differ_can_be_read_in_a_breath_and_have_every_letter_and_no_digit():
    assert len(set(SENTENCES)) == len(SENTENCES) >= 10
    assert all(5 <= len(sentence.split()) <= 16 for sentence in SENTENCES)
    assert set("abcdefghijklmnopqrstuvwxyz") <= set(" ".join(SENTENCES).lower())
    assert not any(char.isdigit() for sentence in SENTENCES for char in sentence)


def test_sentences_of_another_language_come_from_a_file(tmp_path):
    path = tmp_path / "sentences.txt"
    path.write_bytes("\ufeffGrüß  dich\n\nzwei\n".encode())

    assert read_sentences(path) == ("Grüß dich", "zwei")
    assert read_sentences(None) == SENTENCES


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"\n \n", "holds no sentence"), (b"\xff\xfea\0", "UTF-16"), (b"x\n" + b"a" * 301, ":2: 301 characters")],
)
def test_a_file_that_cannot_be_read_aloud_is_refused(content, why, tmp_path):
    path = tmp_path / "sentences.txt"
    path.write_bytes(content)

    with pytest.raises(PqmError, match=why):
        read_sentences(path)
