"""LibriSpeech is read as it is distributed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pqm_plugin.corpus.readers.librispeech import available_sets, read
from pqm_plugin.errors import PqmError

MakeCorpus = Callable[..., Path]


def test_the_speaker_is_the_reader_and_never_the_chapter(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus({"dev": {"84-1-0000": "ONE", "84-2-0000": "TWO  WORDS", "9-1-0000": "THREE"}})

    found = list(read(corpus, "dev"))

    assert [(each.utterance, each.speaker, each.text) for each in found] == [
        ("84-1-0000", "84", "ONE"),
        ("84-2-0000", "84", "TWO WORDS"),
        ("9-1-0000", "9", "THREE"),
    ]
    assert found[0].audio == str(corpus / "dev/84/1/84-1-0000.flac")


def test_any_set_name_is_found_also_within_the_archive_folder(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus({"LibriSpeech/my-set": {"1-1-0000": "A"}, "LibriSpeech/dev": {"2-1-0000": "B"}})

    assert available_sets(corpus) == ["dev", "my-set"]
    assert [each.speaker for each in read(corpus, "my-set")] == ["1"]
    assert list(read(corpus / "LibriSpeech", "dev")) == list(read(corpus, "dev"))


def test_a_name_for_several_sets_reads_them_all_unless_it_is_a_set_itself(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus({"dev-clean": {"1-1-0000": "A"}, "dev-other": {"2-1-0000": "B"}})

    assert [each.speaker for each in read(corpus, "dev")] == ["1", "2"]
    with pytest.raises(PqmError, match="train-clean-100 is missing"):
        list(read(corpus, "train-600"))

    make_corpus({"dev": {"3-1-0000": "C"}})

    assert [each.speaker for each in read(corpus, "dev")] == ["3"]


def test_holes_are_yielded_with_the_missing_half_empty(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus({"dev": {"1-1-0000": "A", "1-1-0001": "B", "1-1-0002": "C"}})
    folder = corpus / "dev/1/1"
    (folder / "1-1-0000.flac").unlink()
    (folder / "1-1.trans.txt").write_text("1-1-0000 A\n1-1-0001 B\n")
    (folder / "._1-1-0001.flac").write_bytes(b"not speech")

    found = {each.utterance: (bool(each.audio), each.text) for each in read(corpus, "dev")}

    assert found == {"1-1-0000": (False, "A"), "1-1-0001": (True, "B"), "1-1-0002": (True, "")}


def test_a_relative_corpus_gives_absolute_audio(make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = make_corpus({"dev": {"1-1-0000": "A"}})
    monkeypatch.chdir(corpus.parent)

    assert [each.audio for each in read(Path("corpus"), "dev")] == [str(corpus / "dev/1/1/1-1-0000.flac")]


def test_the_source_is_the_book_where_the_table_of_chapters_tells_it(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus({"dev": {"84-1-0000": "ONE", "84-2-0000": "TWO"}})
    (corpus / "CHAPTERS.TXT").write_text(";ID |READER|\n1 | 84 | 8.0 | dev | 53 | 1023 | In Chancery | Bleak House\n")

    assert [each.source for each in read(corpus, "dev")] == ["book 1023", "chapter 2"]


def test_missing_and_empty_sets_are_errors_that_name_what_is_there(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus({"dev-clean": {"1-1-0000": "A"}})
    (corpus / "empty").mkdir()

    with pytest.raises(PqmError, match="dev-claen is missing .nearest: dev-clean"):
        list(read(corpus, "dev-claen"))
    with pytest.raises(PqmError, match="empty is empty"):
        list(read(corpus, "empty"))
    with pytest.raises(PqmError, match="nowhere is not a folder"):
        list(read(corpus / "nowhere", "dev-clean"))


def test_one_name_for_two_things_is_an_error(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus({"dev": {"1-1-0000": "A"}})
    transcript = corpus / "dev/1/1/1-1.trans.txt"
    transcript.write_text("1-1-0000 A\n1-1-0000 B\n")

    with pytest.raises(PqmError, match=r"1-1.trans.txt:2: 1-1-0000 has a transcript already"):
        list(read(corpus, "dev"))
    transcript.write_bytes(b"1-1-0000 \xff\n")
    with pytest.raises(PqmError, match="not UTF-8"):
        list(read(corpus, "dev"))


@pytest.mark.real
def test_the_real_readers_are_counted(shared: Path) -> None:
    counts: dict[str, int] = {}
    for each in read(shared / "data", "dev-clean"):
        counts[each.speaker] = counts.get(each.speaker, 0) + 1

    assert counts == {
        **{"84": 65, "1272": 73, "1462": 94, "1988": 75, "2035": 77},
        **{"2277": 95, "251": 75, "2428": 87, "652": 71, "777": 82},
    }
