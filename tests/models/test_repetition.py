"""Repetitions in a text are known by how well it compresses, and cut."""

import pytest

from pqm_plugin.models.espnet.model import without_loops
from pqm_plugin.models.interface import Hypothesis
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.models.repetition import compression_ratio, without_repetition

ENGLISH = "He was in a confused state of mind, and he did not know whether to go on or to turn back to the old house."
HINDI = (
    "भारत एक विशाल देश है जहाँ अनेक भाषाएँ बोली जाती हैं और हर प्रदेश की अपनी संस्कृति और परंपरा है जो लोगों को एक दूसरे से जोड़ती है "
    "और सदियों से चली आ रही है"
)


def test_the_ratio_of_ascii_is_that_of_openai_whisper():
    utils = pytest.importorskip("whisper.utils")

    for text in (ENGLISH, "no " * 30, ". " * 100, "a"):
        assert compression_ratio(text) == utils.compression_ratio(text)
    assert compression_ratio("") == 0.0


@pytest.mark.parametrize("text", [ENGLISH, HINDI, 2 * HINDI[:60], "very very very good", "ha ha ha ha ha"])
def test_ordinary_texts_of_any_script_are_no_repetitions(text):
    assert compression_ratio(text) < 2.4


@pytest.mark.parametrize("text", ["no " * 30, ". " * 100, "है " * 40, ENGLISH * 4, "嗯" * 60])
def test_repetitions_of_any_script_are_known(text):
    assert compression_ratio(text) > 2.4


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("No, no, no, no, no, no, no.", "No, no."),
        ("Go on. " + "you " * 50, "Go on. you"),
        ("we came and " * 20 + "then we left", "we came and then we left"),
        ("it was 100000 miles, hmmmm", "it was 100000 miles, hmmmm"),
        (". " * 60, ""),
        ("嗯" * 60, "嗯"),
        (ENGLISH, ENGLISH),
        ("", ""),
    ],
)
def test_of_a_repetition_one_is_left(text, left):
    assert without_repetition(text, 2.4) == left


def test_a_joint_search_that_repeats_itself_gives_way_to_the_ctc_layer(caplog):
    loop, fine = Hypothesis("GO " * 60, -3.0, 60), Hypothesis("GO ON", -1.0, 5)
    guarded = SearchOptions(guard="always")

    mended = without_loops([fine, loop], guarded, lambda: ["GONE", "GO NOW"])

    assert mended == [fine, Hypothesis("GO NOW", -3.0, 60, is_repaired=True)]
    assert caplog.text.count("the search repeated itself") == 1 and "'GO NOW' is taken" in caplog.text
    assert without_loops([loop], guarded, None)[0].text == "GO"
    assert without_loops([loop], SearchOptions(), lambda: ["GO NOW"]) == [loop]
