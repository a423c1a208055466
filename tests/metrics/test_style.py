"""A reference takes the case and punctuation of a model's hypothesis, and keeps its own words."""

import random

import pytest

from pqm_plugin.metrics.normalize import in_style, is_styled, normalize


@pytest.mark.parametrize(
    ("reference", "hypothesis", "styled"),
    [
        ("MISTER QUILTER IS THE APOSTLE", " Mr. Quilter is the apostle.", "Mr. Quilter is the apostle."),
        ("AND WE ARE GLAD TO WELCOME HIS GOSPEL", "And, we're glad to welcome his gossip.", None),
        ("HE SAID I'M GLAD", "He said, Tom glad.", "He said, I'm glad."),
        ("A WELL KNOWN PLACE THEN HE WENT", "A well-known place. Then he went.", "A well known place. Then he went."),
        ("THIS IS ALL", "This is all thank you for watching.", "This is all."),
        ("THE COLOUR IS RED", "The color is red.", "The color is red."),
        ("TURN OFF THE OVEN", "Completely different words.", "Turn off the oven."),
        ("TURN OFF THE OVEN", "", "Turn off the oven."),
        ("", "Thank you.", ""),
    ],
)
def test_the_words_are_the_references_and_the_marks_the_models(reference, hypothesis, styled):
    found = in_style(reference, hypothesis)

    assert found == styled if styled is not None else normalize(found) == normalize(reference)


def test_whatever_a_model_wrote_the_normalised_words_stay_those_of_the_reference():
    chance = random.Random(0)
    words = ["the", "mister", "Oven,", "(red)", "it's", "twenty", "off.", "-", "...", "é", "O'Brien", "a-b"]
    for _ in range(300):
        reference = " ".join(chance.choices([word.strip(",.()") for word in words if word.isalpha()], k=6)).upper()
        hypothesis = " ".join(chance.choices(words, k=chance.randrange(10)))

        found = in_style(reference, hypothesis)

        assert normalize(found) == normalize(reference), (reference, hypothesis, found)
        assert len(found.split()) == len(reference.split())


@pytest.mark.parametrize(
    ("texts", "styled"),
    [
        (["TURN OFF THE OVEN", "IT'S ME"], False),
        (["turn off the oven", "it's me"], False),
        (["Turn off the oven"], True),
        (["turn off, then on"], True),
        (["turn off", "Then on"], True),
        ([], False),
    ],
)
def test_a_corpus_in_one_case_without_punctuation_has_no_style(texts, styled):
    assert is_styled(texts) is styled
