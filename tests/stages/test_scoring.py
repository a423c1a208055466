"""What stage 7 says beside the errors."""

import dataclasses

import pytest

from pqm_plugin.stages import run_stage
from pqm_plugin.stages.score import adaptation_minutes
from tests.stages.conftest import write_tiny_corpus


@pytest.fixture
def heard(recipe, tmp_path):
    recipe = dataclasses.replace(recipe, corpus=write_tiny_corpus(tmp_path / "corpus"))
    run_stage("data", recipe)
    return recipe


def test_the_minutes_that_adapters_learned_from_are_those_of_train_and_dev(heard):
    # Of six utterances, a second each, four are train or dev.
    assert adaptation_minutes(heard) == {"10": 0.07, "20": 0.07}


def test_the_minutes_of_a_cell_with_little_speech_are_what_it_was_allowed(heard, tmp_path):
    little = tmp_path / "little.yaml"
    little.write_text(heard.pqm_config.read_text() + "adapt_minutes: 0.001\n")

    # One utterance at least of train and one of dev.
    assert adaptation_minutes(dataclasses.replace(heard, pqm_config=little)) == {"10": 0.03, "20": 0.03}


def test_where_recordings_are_gone_the_minutes_are_not_told_and_nothing_stops(heard, caplog):
    for path in heard.corpus.rglob("*.flac"):
        path.unlink()

    assert adaptation_minutes(heard) == {}
    assert "minutes of adaptation speech are not known" in caplog.text
