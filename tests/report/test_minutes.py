"""Word errors against minutes of speech: what is said of where they cross full precision."""

import pytest

from pqm_plugin.report.minutes import all_name, crossing_sentence, minutes_points
from pqm_plugin.report.study import reference, section_table
from tests.report.conftest import entry

HEARD = {"meta": {"adapt_minutes": {"ann": 2.0, "bob": 5.0}}}


def test_minutes_run_from_none_to_all(systems, study):
    lines = section_table(study, "minutes", {"systems": systems}).splitlines()

    assert [line.split(" | ")[2] for line in lines[2:]] == ["12.00", "10.50", "9.60", "9.00"]
    assert crossing_sentence(study, {"systems": systems}) == (
        "It is below `full` (10.00 %) from 2 minutes on, of those measured."
    )


def test_all_the_speech_there_is_is_drawn_where_it_lies_and_named_in_minutes(systems, study):
    results = {"systems": systems, **HEARD}

    assert [point[0] for point in minutes_points(study, results)] == [0, 0.5, 2, 3.5]
    assert minutes_points(study, results)[-1][1] == 0.09
    assert "| all: 3.5 minutes on average, 2.0 to 5.0 |" in section_table(study, "minutes", results)
    assert all_name({"systems": systems}) == "all"
    assert [point[0] for point in minutes_points(study, {"systems": systems})] == [0, 0.5, 2]


def test_a_study_that_does_not_tell_its_minutes_has_those_of_the_results(systems, study):
    study["reference"] = {"systems": systems, "meta": {"commit": "a1"}}

    own = reference(study, {"systems": {}, **HEARD})

    assert own["meta"] == {"adapt_minutes": {"ann": 2.0, "bob": 5.0}, "commit": "a1"}
    assert own["systems"] is systems


@pytest.mark.parametrize(
    ("full", "sentence"),
    [
        (130, "The speaker-independent adapter alone, 0 minutes, is below `full` (13.00 %) already, and so is every"),
        (95, "It is below `full` (9.50 %) with all there is."),
        (90, "No amount of speech here brings it below `full` (9.00 %)."),
    ],
)
def test_what_the_speaker_independent_adapter_does_is_not_credited_to_the_speaker(systems, study, full, sentence):
    assert crossing_sentence(study, {"systems": systems | {"full": entry(full)}}).startswith(sentence)


def test_the_fair_full_precision_has_a_crossing_of_its_own(systems, study):
    said = crossing_sentence(study, {"systems": systems | {"full+sat": entry(80)}})

    assert said.endswith("No amount of speech here brings it below `full+sat` (8.00 %).")


def test_a_crossing_that_does_not_last_is_no_crossing(systems, study):
    study["cells"][1]["systems"]["nf4+speaker"] = entry(94)
    study["cells"][2]["systems"]["nf4+speaker"] = entry(104)

    assert "with 0.5 minutes, all there is alone." in crossing_sentence(study, {"systems": systems})
