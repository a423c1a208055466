"""The files of icefall: what icefall's own function, which `simple-wer` packs, writes of the same words."""

import ast
import re

import numpy as np
import pytest

from pqm_plugin.metrics.icefall import errs_txt, recogs_txt, wer_summary_txt
from pqm_plugin.metrics.wer import ScoredUtterance

simple_wer = pytest.importorskip("simple_wer.simple_wer")


def scored(n=40):
    """Random sentences of a few words, so that every kind of error is there often; one without words on each side."""
    draw = np.random.default_rng(0)
    words = np.array(["a", "b", "it's", "d", 'e"e', "ß"])
    pairs = [(draw.choice(words, draw.integers(1, 8)), draw.choice(words, draw.integers(0, 8))) for _ in range(n)]
    return [
        ScoredUtterance(f"utt-{place:02d}", "ann", " ".join(said), " ".join(heard))
        for place, (said, heard) in enumerate([*pairs, ([], ["a"])])
    ]


def by_icefall(results, folder):
    simple_wer.simple_wer(results, str(folder), "theirs")
    return (folder / "errs-theirs.txt").read_text().splitlines()


def test_recogs_are_read_back_by_icefalls_rule():
    found = {}
    for line in recogs_txt(scored()).splitlines():
        name, key, words = re.fullmatch(r"(.+):\t(ref|hyp)=(.*)", line).groups()
        found.setdefault(name, {})[key] = ast.literal_eval(words)

    assert found == {one.utterance: {"ref": one.reference.split(), "hyp": one.hypothesis.split()} for one in scored()}


def test_errors_are_as_many_as_icefall_counts_in_the_same_sections(tmp_path):
    results = [(one.utterance, one.reference.split(), one.hypothesis.split()) for one in scored()]

    ours, theirs = errs_txt(scored()).splitlines(), by_icefall(results, tmp_path)

    assert ours[0] == theirs[0]
    numbers = [list(map(int, re.findall(r"\d+", lines[1]))) for lines in (ours, theirs)]
    assert sum(numbers[0][:3]) == sum(numbers[1][:3]) and numbers[0][3] == numbers[1][3]
    heads = [[line for line in lines if re.match(r"[A-Z-]{8,}", line)] for lines in (ours, theirs)]
    assert heads[0] == heads[1]
    assert len(ours[5 : ours.index("", 5)]) == len(theirs[5 : theirs.index("", 5)])


def test_an_alignment_of_one_way_is_written_letter_by_letter_as_icefall_does(tmp_path):
    one = [
        ScoredUtterance("x", "ann", "the cat sat on mats", "a cat on mats too"),
        ScoredUtterance("y", "ann", "go", "go"),
        ScoredUtterance("z", "ann", "is it me", "me"),
    ]
    results = [(each.utterance, each.reference.split(), each.hypothesis.split()) for each in one]

    assert errs_txt(one).splitlines() == by_icefall(results, tmp_path)


def test_the_summary_has_the_best_setting_first():
    assert wer_summary_txt({"nf4": 0.2, "nf4+speaker": 0.1234}) == "settings\tWER\nnf4+speaker\t12.34\nnf4\t20.00\n"
