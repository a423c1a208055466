"""What differs is marked by shape and told in words; what a stranger wrote is never HTML."""

from pathlib import Path

from pqm_plugin.page import markup
from pqm_plugin.page.desk import Comparison, Heard
from pqm_plugin.personal.enrollment import Enrolled
from pqm_plugin.personal.transcript import Segment, Transcript


def heard(text: str, adapter: str = "none", size: int = 0, is_kept: bool = False) -> Heard:
    return Heard(Transcript("a.wav", adapter, 4.0, (Segment(0.0, 4.0, text, -1.0, 0.9),)), 1.0, size, is_kept)


def test_replaced_added_and_missing_words_are_marked_on_their_sides_and_listed():
    before, after = heard("go in now or we wait"), heard("so in or we all wait", "speakers/ada", 310_000)

    shown = markup.comparison(Comparison(before, after, "ada"))

    assert "<del>go</del> in <del>now</del> or we wait</p>" in shown
    assert "<ins>so</ins> in or we <ins>all</ins> wait</p>" in shown
    assert "<strong>3 of 7 words differ.</strong>" in shown
    assert "<del>go</del> became <ins>so</ins>" in shown
    assert "only before: <del>now</del>" in shown and "only after: <ins>all</ins>" in shown
    assert "with the 4-bit base alone" in shown and "with the adapter of ada" in shown
    assert "<dd>0.250</dd>" in shown and "<dd>0.31 MB</dd>" in shown


def test_the_same_words_are_said_to_be_the_same_and_nothing_is_marked():
    shown = markup.comparison(Comparison(heard("go on", "sat", 9), heard("go on", "speakers/ada", 9), "ada"))

    assert "The same words before and after." in shown
    assert "<del>" not in shown and "<ins>" not in shown
    assert "with the adapter for anyone (sat)" in shown


def test_anyone_has_one_side_and_silence_says_that_there_are_no_words():
    shown = markup.comparison(Comparison(heard("", is_kept=True), None, None))

    assert shown.count("<section") == 1 and "Anyone" in shown
    assert "<em>no words</em>" in shown and "kept from before" in shown


def test_words_from_silence_are_all_new():
    shown = markup.comparison(Comparison(heard(""), heard("go on", "speakers/ada", 1), "ada"))

    assert "<ins>go on</ins>" in shown and "<strong>2 of 2 words differ.</strong>" in shown


def test_one_difference_is_in_the_singular():
    shown = markup.comparison(Comparison(heard("go on"), heard("go in", "speakers/ada", 1), "ada"))

    assert "<strong>1 of 2 words differs.</strong>" in shown


def test_nothing_that_was_heard_named_or_written_becomes_html():
    evil = "<script>alert(1)</script>"
    done = Enrolled(evil, Path("x"), 1, 2.0, 1, True)
    facts = {"family": evil, "parameters": 8, "size_bytes": 4, "base_size_bytes": 32, "bits_per_parameter": 4.0}
    adapter = {"size_bytes": 1, "parameters": 2, "learned_from": evil}

    shown = [
        markup.comparison(Comparison(heard(evil), heard(f"a {evil}", f"speakers/{evil}", 1), evil)),
        markup.comparison(Comparison(heard(evil), None, None)),
        markup.readings([(evil, 1.0)]),
        markup.enrolled(done, adapter),
        markup.model(facts | {"licence": evil, "adapters": {evil: adapter}}),
    ]

    assert all("<script" not in each and "&lt;script&gt;" in each for each in shown)


def test_sizes_are_those_of_the_files_with_their_ratio_and_share():
    adapters = {"speakers/ada": {"size_bytes": 250_000, "parameters": 1, "learned_from": "8 recordings"}}
    facts = {"family": "ESPnet AED", "parameters": 15_000_000, "size_bytes": 10_000_000, "base_size_bytes": 60_000_000}

    shown = markup.model(facts | {"bits_per_parameter": 5.333, "licence": "MIT", "adapters": adapters})

    assert "60.00 MB, 6.00 times as much" in shown and "<dd>5.33</dd>" in shown and "15,000,000" in shown
    assert '<th scope="row">speakers/ada</th><td>0.25 MB</td><td>2.5%</td><td>8 recordings</td>' in shown


def test_what_was_read_is_listed_with_its_seconds_and_their_sum():
    assert "Nothing is kept yet" in markup.readings([])
    assert "2 recordings, 6 s." in markup.readings([("go on", 2.5), ("stop", 3.5)])
    assert "1 recording, 2 s." in markup.readings([("go on", 2.4)])
