"""The page says where its numbers come from and what must stand beside them."""

import copy
from pathlib import Path

from pqm_plugin import report
from pqm_plugin.report.gains import Goal
from pqm_plugin.report.page import Section, render_report
from pqm_plugin.report.tables import plain_label


def _section(results, source="results.json", labels=()):
    return Section("Joint decoding", source, results, "speakers.svg", "bytes.svg", labels)


def test_the_labels_stand_over_every_table(results):
    page = render_report(
        "T", [_section(results, labels=["lossy", "ten readers"])], sensitivity={"a base": {"rows": [{"kind": "ctc"}]}}
    )

    tables = page.count("| :-- |")
    assert tables == 6
    assert page.count("*Lossy. Ten readers.*") == tables


def test_labels_become_sentences():
    assert plain_label(["synthetic speech", "Two voices."]) == "Synthetic speech. Two voices."


def test_what_differs_between_results_files_is_said_for_each(results):
    other = copy.deepcopy(results)
    other["meta"]["command"] = "./run.sh --tag ctc"

    page = render_report("T", [_section(results), _section(other, "results_ctc.json")])

    assert "* corpus: two invented speakers\n" in page
    assert "* command of `results.json`: `./run.sh --base asr_tiny`\n" in page
    assert "* command of `results_ctc.json`: `./run.sh --tag ctc`\n" in page


def test_a_table_of_sensitivity_says_how_it_was_measured_as_far_as_is_known(results):
    known = {"rows": [{"kind": "ctc"}], "request": {"quantize": {"block_size": 32}}, "meta": {"commit": "0123abc"}}

    page = render_report("T", [_section(results)], sensitivity={"new": known, "old": {"rows": [{"kind": "ctc"}]}})

    assert "* new: blocks of 32, each weight rounded to its nearest level; commit `0123abc`\n" in page
    assert "* old" not in page


def test_few_speakers_are_said_to_be_few(results):
    assert "They rest on 2 speakers, which is few" in render_report("T", [_section(results)])


def test_the_overlap_of_the_decoded_speakers_stands_by_their_table(results):
    told = {"utterances": 10, "words": 100, "same_text": 1, "same_text_words": 8, "same_text_sat": 2}
    told |= {"same_source": 10, "shared_sources": ["book 7"]}
    speakers = list(results["systems"]["nf4"]["speakers"])
    results["meta"]["overlap"] = dict.fromkeys([*speakers, "nobody"], told)

    page = render_report("T", [_section(results)])

    assert (
        "Overlap: of 20 test utterances 2 (8.0 % of the words) have a text that the same speaker's train holds too, "
        "and 4 one that SAT heard; 20 are from a book, talk or session that is in the same speaker's train.\n" in page
    )


def test_with_one_speaker_the_interval_claims_nothing_of_others(results):
    for entry in results["systems"].values():
        del entry["speakers"]["bob"]

    assert "not other speakers" in render_report("T", [_section(results)])


def test_figures_have_a_text_for_those_who_cannot_see_them(results):
    page = render_report("T", [_section(results)])

    assert "nf4+speaker 12.00 % at 8.50 MB" in page
    assert "nf4+speaker 12.00 % (9.00 to 15.00)" in page
    assert "](bytes.svg)" in page


def test_each_condition_has_its_own_labels_and_tables_over_several_have_all_of_them(results):
    results["meta"]["decoding"] = "greedy"
    other = copy.deepcopy(results)
    sections = [_section(results, labels=["lossy", "joint"]), _section(other, "results_ctc.json", ["lossy", "alone"])]
    goals = [Goal("small", ("results.json", "results_ctc.json"), "times_smaller", goal=7)]

    page = render_report("T", sections, goals=goals, mismatch={"m.svg": sections})

    first, second = page.split("## Joint decoding\n")[1:]
    assert "*Lossy. Joint.*" in first and "Alone" not in first
    assert "*Lossy. Alone.*" in second and "*Lossy. Joint.*" not in second
    assert page.partition("## Goals")[2].strip().startswith("*Lossy. Joint. Alone.*")
    assert page.partition("## Gain as a function")[2].partition("\n\n")[2].startswith("*Lossy. Joint. Alone.*")


def test_the_page_names_the_normaliser_of_another_language(results):
    other = copy.deepcopy(results)
    other["meta"] |= {"language": "hi", "normalizer": "basic"}

    page = render_report("T", [_section(other)])

    assert "Whisper's basic text normaliser" in page and "English text normaliser" not in page
    assert "* language of the speech: hi\n" in page
    assert "English text normaliser" in render_report("T", [_section(results)])


def test_the_code_of_the_page_holds_no_reading_of_what_was_measured():
    sources = "".join(path.read_text() for path in Path(report.__file__).parent.glob("*.py"))

    for reading in ("repair of 4 bits", "is no effect", "learns another adapter", "judge those"):
        assert reading not in sources
