"""sclite's rows, worked out by hand, and what ESPnet's scripts read from them."""

import shutil

import pytest

from pqm_plugin.errors import PqmError
from pqm_plugin.metrics.sclite import by_sclite, read_trn, result_txt, write_trn
from pqm_plugin.metrics.wer import ScoredUtterance, counts_of

SCORED = [
    ScoredUtterance("84-1", "84", "the cat sat", "the hat sat down"),
    ScoredUtterance("84-2", "84", "yes", "yes"),
    ScoredUtterance("b-c-1", "b-c", "a b c d", "a b"),
]


def test_the_percentage_rows_stand_as_sclite_sets_them():
    # 84: 4 words, 3 right, 1 substituted, 1 inserted, 1 of 2 sentences wrong. b-c: 4 words, 2 deleted.
    lines = result_txt(SCORED, "decode_full/test").splitlines()

    assert lines[3:16] == [
        "       |                        decode_full/test                        |",
        "       |----------------------------------------------------------------|",
        "       | SPKR   | # Snt # Wrd | Corr    Sub    Del    Ins    Err  S.Err |",
        "       |--------+-------------+-----------------------------------------|",
        "       | 84     |    2      4 | 75.0   25.0    0.0   25.0   50.0   50.0 |",
        "       |--------+-------------+-----------------------------------------|",
        "       | b-c    |    1      4 | 50.0    0.0   50.0    0.0   50.0  100.0 |",
        "       |================================================================|",
        "       | Sum/Avg|    3      8 | 62.5   12.5   25.0   12.5   50.0   66.7 |",
        "       |================================================================|",
        "       |  Mean  |  1.5    4.0 | 62.5   12.5   25.0   12.5   50.0   75.0 |",
        "       |  S.D.  |  0.7    0.0 | 17.7   17.7   35.4   17.7    0.0   35.4 |",
        "       | Median |  1.5    4.0 | 62.5   12.5   25.0   12.5   50.0   75.0 |",
    ]


def test_the_raw_rows_count_words_and_sentences():
    text = result_txt(SCORED, "decode_full/test")

    assert "       | Sum    |    3      8 |    5      1      2      1      4      2 |\n" in text


def test_espnets_summary_script_finds_one_row_and_its_eight_numbers():
    # show_asr_result.sh: grep -e Avg | sed -e 's#Sum/Avg##g' | tr '|' ' ' | tr -s ' ' '|'
    rows = [line for line in result_txt(SCORED, "decode_full/test").splitlines() if "Avg" in line]

    assert [row.replace("Sum/Avg", "").replace("|", " ").split() for row in rows] == [
        ["3", "8", "62.5", "12.5", "25.0", "12.5", "50.0", "66.7"]
    ]


def test_numbers_never_touch_however_large_they_are():
    scored = [ScoredUtterance("a-1", "a", "x", " ".join(["y"] * 20001))]
    [row] = [line for line in result_txt(scored, "t").splitlines() if "Avg" in line]

    assert row.replace("|", " ").split()[1:] == ["1", "1", "0.0", "100.0", "0.0", "2000000.0", "2000100.0", "100.0"]


def test_an_alignment_shows_stars_for_what_is_missing_and_letters_under_the_errors():
    text = result_txt(SCORED, "decode_full/test")

    assert (
        "id: (84-84-1)\nScores: (#C #S #D #I) 2 1 0 1\n"
        "REF:  the cat sat ****\nHYP:  the hat sat down\nEval:     S       I   \n"
    ) in text
    assert "REF:  a b c d\nHYP:  a b * *\nEval:     D D\n" in text


def test_a_speaker_without_a_word_has_percentages_of_zero():
    text = result_txt([*SCORED, ScoredUtterance("z-1", "z", "", "noise")], "t")

    assert "       | z      |    1      0 |  0.0    0.0    0.0    0.0    0.0  100.0 |\n" in text
    assert "       | z      |    1      0 |    0      0      0      1      1      1 |\n" in text


def test_what_is_written_is_read_back_word_for_word(tmp_path):
    texts = {"a-b-1": "some (odd) words (s-u)", "a-b-2": "", "é-1": "d’été (", "k 3": "x"}
    speakers = {"a-b-1": "a-b", "a-b-2": "a-b", "é-1": "é", "k 3": "k"}

    write_trn(tmp_path / "hyp.trn", texts, speakers)

    assert read_trn(tmp_path / "hyp.trn", speakers) == texts
    assert (tmp_path / "hyp.trn").read_text(encoding="utf-8").startswith("some (odd) words (s-u)\t(a-b-a-b-1)\n")


@pytest.mark.parametrize("line", ["yes (no) (a-a-1)\n", "yes (no)\t (a-a-1) \n", "yes (no)(a-a-1)"])
def test_blanks_or_nothing_may_stand_before_the_id(tmp_path, line):
    (tmp_path / "ref.trn").write_text(line)

    assert read_trn(tmp_path / "ref.trn", {"a-1": "a"}) == {"a-1": "yes (no)"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("yes\t(b-a-1)\n", r"ref.trn:1: '\(b-a-1\)' is not"),
        ("yes\t(a-a-1)\n\n", "ref.trn:2: 'an empty line' is not"),
        ("yes\t(a-a-1)\nno\t(a-a-1)\n", "ref.trn:2: .* appears twice"),
    ],
)
def test_a_line_that_is_no_utterance_is_named(tmp_path, lines, message):
    (tmp_path / "ref.trn").write_text(lines)

    with pytest.raises(PqmError, match=message):
        read_trn(tmp_path / "ref.trn", {"a-1": "a"})


def test_a_missing_transcript_is_named(tmp_path):
    with pytest.raises(PqmError, match="ref.trn is missing"):
        read_trn(tmp_path / "ref.trn", {})


def write(folder, scored):
    speakers = {one.utterance: one.speaker for one in scored}
    write_trn(folder / "ref.trn", {one.utterance: one.reference for one in scored}, speakers)
    write_trn(folder / "hyp.trn", {one.utterance: one.hypothesis for one in scored}, speakers)
    return folder / "ref.trn", folder / "hyp.trn"


def sums(text):
    """Rows of sums, however wide the table is: sclite sets it by the length of a path."""
    lines = (" ".join(line.split()).replace("Avg |", "Avg|") for line in text.splitlines())
    return [line for line in lines if line.startswith("| Sum")]


@pytest.mark.skipif(not (shutil.which("sclite") or shutil.which("sctk")), reason="sclite is not installed")
def test_sclite_counts_the_same_where_there_is_one_way_and_more_where_its_weights_say_so(tmp_path):
    text, counts = by_sclite(*write(tmp_path, SCORED))

    assert (counts.words, counts.substitutions, counts.deletions, counts.insertions) == (8, 1, 2, 1)
    assert sums(text) == sums(result_txt(SCORED, "x")) != []
    # Five substitutions are 20 by its weights; three deletions, two right words and three insertions are 18.
    weighed = [ScoredUtterance("x-1", "x", "p q r a b", "a b s t u")]
    _, theirs = by_sclite(*write(tmp_path, weighed))
    [ours] = counts_of([weighed[0].reference], [weighed[0].hypothesis])
    assert (ours.errors, theirs.errors) == (5, 6)
    _, without_case = by_sclite(*write(tmp_path, [ScoredUtterance("x-1", "x", "The cat", "the CAT")]))
    assert without_case.errors == 0


def test_without_sclite_the_scorer_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(PqmError, match="sclite is not installed: apt-get install sctk"):
        by_sclite(*write(tmp_path, SCORED))


def test_the_result_says_whose_count_it_is():
    assert "Errors are the fewest that make the hypothesis of the reference (jiwer); case matters." in result_txt(
        SCORED, "x"
    )
