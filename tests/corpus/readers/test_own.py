"""A corpus of the user's own is read in each of its forms, and a bad line costs that line alone."""

from collections.abc import Callable, Iterator
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile

from pqm_plugin.corpus.audio import duration_s
from pqm_plugin.corpus.readers.own import available_sets, read
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError

Record = Callable[..., Path]


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """Return a function that writes a tenth of a second of noise to a file below `tmp_path`."""

    def write(name: str, seconds: float = 0.1) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = np.random.default_rng(3).integers(-3000, 3000, round(16000 * seconds), dtype=np.int16)
        soundfile.write(path, samples, 16000, format="NIST" if path.suffix == ".sph" else None)
        return path

    return write


def table(tmp_path: Path, text: str | bytes, name: str = "t.tsv") -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def good(found: Iterator[Utterance]) -> list[tuple[str, str, str]]:
    return [(each.utterance, each.speaker, each.text) for each in found if not each.problem]


def problems(found: Iterator[Utterance], folder: Path) -> list[str]:
    return [f"{each.place}: {each.problem}".replace(f"{folder}/", "") for each in found if each.problem]


def test_a_table_gives_its_lines_with_audio_beside_it(tmp_path: Path) -> None:
    path = table(tmp_path, "path\ttext\tspeaker\na/1.wav\tOne two\tann\n\na/ann-2.wav\tThree\tann\n")

    assert available_sets(path) == ["own"]
    assert good(read(path, "own")) == [("ann-1", "ann", "One two"), ("ann-2", "ann", "Three")]
    assert [each.audio for each in read(path, "own")] == [str(tmp_path / "a/1.wav"), str(tmp_path / "a/ann-2.wav")]


@pytest.mark.parametrize(
    "data",
    [
        b'\xef\xbb\xbfspeaker,text,path\r\nann,"one, two",1.wav\r\n',
        b'Speaker;Path;Text\r\nann;"1.wav";"one, two"\r\n',
        b"text\tpath\tspeaker\rone, two\t1.wav\tann\r",
    ],
)
def test_tables_of_other_programs_read_the_same(tmp_path: Path, data: bytes) -> None:
    assert good(read(table(tmp_path, data), "own")) == [("ann-1", "ann", "one, two")]


def test_every_bad_line_is_named_and_the_good_ones_go_on(tmp_path: Path) -> None:
    lines = [
        b"path\ttext\tspeaker\tutterance\tstart_s\tend_s",
        b"1.wav\tone\tann\tu1\t\t",
        b"1.wav\t\tann\tu2\t\t",
        b"1.wav\ttwo\tann\tu1\t\t",
        b"1.wav\ttwo\tann smith\tu3\t\t",
        b"1.wav\ttwo\tann\tu4\t2.5\t1",
        b"1.wav\ttwo\tann\tu5\t-1\t1",
        b"1.wav\ttwo\tann\tu6\tsoon\t1",
        b'1.wav\t"two\tann\tu7\t\t',
        b"rm -r x |\ttwo\tann\tu8\t\t",
        b"1.wav\tsch\xf6n\tann\tu9\t\t",
        b"1.wav\tthree\tann\tu10\t0.5\t1.5",
    ]
    found = problems(read(table(tmp_path, b"\n".join(lines)), "own"), tmp_path)

    assert good(read(tmp_path / "t.tsv", "own")) == [("u1", "ann", "one"), ("u10", "ann", "three")]
    assert [problem.split(": ")[0] for problem in found] == [f"t.tsv:{number}" for number in range(3, 12)]
    for problem, words in zip(
        found,
        [
            *("text is empty", "u1 is named in t.tsv:2 already", "'ann smith' cannot be a folder", "2.5 s to 1 is no"),
            *("-1 s to 1 is not part", "could not convert", "a quote is not closed", "is a command", "not UTF-8"),
        ],
        strict=True,
    ):
        assert words in problem


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("path\ttext", "t.tsv:1: the header 'path text' lacks speaker"),
        ("a.wav\thello\tann", "lacks path, text, speaker"),
        ("path\ttext\tspeaker\ttext", "has text twice"),
        ("path\ttext\tspeaker\tstart", "column 'start' is not known: call it 'start_s'"),
    ],
)
def test_a_header_that_cannot_be_meant_is_an_error(tmp_path: Path, header: str, words: str) -> None:
    with pytest.raises(PqmError, match=words):
        list(read(table(tmp_path, header + "\nx\tx\tx\tx\n"), "own"))


def test_a_foreign_column_is_named_and_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = table(tmp_path, "path\ttext\tspeaker\tage\n1.wav\tone\tann\t30\n")

    assert good(read(path, "own")) == [("ann-1", "ann", "one")]
    assert "column 'age' is not known and not read" in caplog.text


def test_spans_of_a_recording_share_it_as_their_source(tmp_path: Path, record: Record) -> None:
    record("talk.wav", 3.0)
    path = table(tmp_path, "path,text,speaker,start_s,end_s\ntalk.wav,a,ann,,1\ntalk.wav,b,ann,1.5,\n")

    first, second = read(path, "own")

    assert [duration_s(each) for each in (first, second)] == [1.0, 1.5]
    assert [first.utterance, second.utterance] == ["ann-talk-000000", "ann-talk-000150"]
    assert first.recording == second.recording == first.source == second.source == "ann-talk-000000"


def test_names_that_would_be_the_same_are_told_apart_by_folder(tmp_path: Path) -> None:
    path = table(tmp_path, "path\ttext\tspeaker\nx/1.wav\ta\tann\ny/1.wav\tb\tann\ny/1.wav\tc\tann\n")

    assert [name for name, *_ in good(read(path, "own"))] == ["ann-1", "ann-y-1"]
    assert "t.tsv:4: ann-y-1 is named in t.tsv:3 already" in problems(read(path, "own"), tmp_path)[0]


def test_file_names_in_any_script_become_names_of_their_own(tmp_path: Path) -> None:
    path = table(tmp_path, "path\ttext\tspeaker\n一.wav\ta\tann\n二.wav\tb\tann\n" + "x" * 120 + ".wav\tc\tann\n")

    names = [name for name, *_ in good(read(path, "own"))]

    assert len(set(names)) == 3 and all(name.isascii() and len(name) <= 100 for name in names)


def test_folders_give_the_speaker_and_text_stands_beside_or_in_a_list(tmp_path: Path, record: Record) -> None:
    for name in ("ann/1.wav", "ann/2.FLAC", "bob/morning/1.ogg", "bob/evening/1.mp3", "bob/3.sph"):
        record(name)
    (tmp_path / "ann/1.txt").write_bytes(b"\xef\xbb\xbfOne\r\ntwo\r\n")
    (tmp_path / "ann/2.TXT").write_text("three")
    (tmp_path / "bob/list.txt").write_text("3.sph six\n1 five\n")
    (tmp_path / "bob/.DS_Store.wav").write_bytes(b"x")

    found = list(read(tmp_path, "own"))

    assert good(iter(found)) == [
        ("ann-1", "ann", "One two"),
        ("ann-2", "ann", "three"),
        ("bob-3", "bob", "six"),
        ("bob-1", "bob", "five"),
        ("bob-morning-1", "bob", "five"),
    ]
    assert [each.source for each in found] == ["", "", "", "evening", "morning"]


def test_every_recording_of_a_folder_without_its_text_is_named(tmp_path: Path, record: Record) -> None:
    for name in ("ann/1.wav", "ann/2.wav", "ann/3.wav", "ann lee/1.wav", "loose.wav"):
        record(name)
    (tmp_path / "ann/1.txt").write_text("one")
    (tmp_path / "ann/2.txt").write_text(" ")
    (tmp_path / "ann/list.txt").write_text("4 four\n4 four\n")
    (tmp_path / "ann lee/1.txt").write_text("one")

    found = problems(read(tmp_path, "own"), tmp_path)

    assert good(read(tmp_path, "own")) == [("ann-1", "ann", "one")]
    assert len(found) == 6
    for words in (
        "loose.wav: is in no speaker's folder",
        "ann lee/1.wav: speaker name 'ann lee' cannot be",
        "ann/list.txt:2: 4 is named in ann/list.txt:1 already",
        "ann/2.wav: the text in ann/2.txt is empty",
        "ann/3.wav: audio without transcript",
        "ann/list.txt:1: transcript without audio",
    ):
        assert any(words in problem for problem in found), words


def test_a_speaker_whose_recordings_are_from_a_phone_or_of_no_known_kind_never_vanishes(
    tmp_path: Path, record: Record
) -> None:
    record("ann/1.wav")
    (tmp_path / "ann/1.txt").write_text("one")
    for name in ("bob/1.m4a", "bob/list.txt", "cem/1.xyz", "dan/", "ann/notes.docx"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).write_text("1.m4a two")

    found = problems(read(tmp_path, "own"), tmp_path)

    assert [name for name, *_ in good(read(tmp_path, "own"))] == ["ann-1", "bob-1"]
    assert [line.partition(":")[0] for line in found] == ["ann/notes.docx", "cem/1.xyz", "dan"]
    assert "not of a supported kind (.xyz): convert it to WAV" in found[1]


def kaldi(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("wav_scp", "wav.scp")).write_text(text)
    return folder


def test_marks_of_byte_order_within_joined_lists_and_tables_cost_no_line(tmp_path: Path, record: Record) -> None:
    record("c/s/a.wav"), record("c/s/b.wav")
    table(tmp_path, "\ufeffa HI\r\n\ufeffb YO\r\n", "c/s/list.txt")
    joined = table(tmp_path, "\ufeffpath\ttext\tspeaker\nc/s/a.wav\tHI\ts\n\ufeffc/s/b.wav\tYO\ts\n")

    assert good(read(tmp_path / "c", "own")) == [("s-a", "s", "HI"), ("s-b", "s", "YO")]
    assert [Path(each.audio).exists() for each in read(joined, "own")] == [True, True]


def test_a_list_in_utf_16_without_a_mark_is_named_as_such(tmp_path: Path, record: Record) -> None:
    record("c/s/a.wav")
    table(tmp_path, "a HI\n".encode("utf-16-le"), "c/s/list.txt")

    assert "is UTF-16" in problems(read(tmp_path / "c", "own"), tmp_path)[0]


def test_sound_of_browsers_and_broadcasts_is_found_by_its_ending(tmp_path: Path, record: Record) -> None:
    for ending in ("weba", "mp2", "3gpp"):
        record(f"c/{ending}/x.wav").rename(tmp_path / f"c/{ending}/x.{ending}")
        table(tmp_path, "HI", f"c/{ending}/x.txt")

    assert len(good(read(tmp_path / "c", "own"))) == 3


def test_a_kaldi_folder_has_files_pipes_archives_and_segments(tmp_path: Path, record: Record) -> None:
    wav = record("a.wav", 1.0)
    kaldiio.save_ark(
        str(tmp_path / "b.ark"), {"r3": (16000, np.full(8000, 500, dtype=np.int16))}, scp=str(tmp_path / "b.scp")
    )
    offset = (tmp_path / "b.scp").read_text().split(":")[-1].strip()
    folder = kaldi(
        tmp_path / "data",
        wav_scp=f"r1 {wav}\nr2 cat {wav} |\nr3 ../b.ark:{offset}\n",
        segments="u1 r1 0 0.5\nu2 r2 0.25 1.0\nu3 r3 0.1 -1\nu4 r9 0 1\nu5 r1 2 1\n",
        text="".join(f"u{number} word\n" for number in range(1, 6)),
        utt2spk="".join(f"u{number} ann\n" for number in range(1, 6)),
    )

    found = list(read(folder, "own"))

    assert [round(duration_s(each), 3) for each in found if not each.problem] == [0.5, 0.75, 0.4]
    assert problems(iter(found), tmp_path) == [
        "data/segments:4: recording r9 is not in wav.scp: add it there",
        "data/segments:5: start 2 s and end 1 s are not a part of a recording: "
        "write `utterance recording start end [channel]`, in seconds and the channel from 0",
    ]


def test_bad_lines_of_a_kaldi_folder_are_named(tmp_path: Path) -> None:
    folder = kaldi(
        tmp_path,
        wav_scp="u1 a.wav\nu2 b.wav\nu3 c.wav\nu3 c.wav\n\nu5 e.wav\n",
        text="u1 one\nu2\nu4 four\nu5 five\n",
        utt2spk="u1 ann\nu2 ann\nu3 ann\nu4 ann\nu5 a/b\n",
    )

    assert good(read(folder, "own")) == [("u1", "ann", "one")]
    found = [problem.rpartition(": ")[0] for problem in problems(read(folder, "own"), tmp_path)]
    assert found == [
        "wav.scp:4: u3 stands in wav.scp:3 already",
        "wav.scp:5: blank line",
        "text:2: u2 has no value",
        "wav.scp:3: audio without transcript",
        "text:3: transcript without audio",
        "wav.scp:6: speaker name 'a/b' cannot be a folder name",
    ]


def test_several_kaldi_folders_are_sets_by_their_names(tmp_path: Path) -> None:
    for name in ("test", "train"):
        kaldi(tmp_path / name, wav_scp=f"{name}1 a.wav\n", text=f"{name}1 one\n", utt2spk=f"{name}1 ann\n")

    assert available_sets(tmp_path) == ["test", "train"]
    assert good(read(tmp_path, "train")) == [("train1", "ann", "one")]
    with pytest.raises(PqmError, match="has no set 'own' .there are: test, train."):
        list(read(tmp_path, "own"))


def test_what_is_no_corpus_is_an_error_that_says_what_is(tmp_path: Path, record: Record) -> None:
    with pytest.raises(PqmError, match="holds no recordings: give with --corpus a Kaldi data folder"):
        available_sets(tmp_path)
    table(tmp_path, "", "note.xyz")
    with pytest.raises(PqmError, match="holds no recordings of a supported kind .but files of .xyz."):
        available_sets(tmp_path)
    record("a.wav")
    with pytest.raises(PqmError, match="recordings that are in no speaker's folder"):
        available_sets(tmp_path)
    with pytest.raises(PqmError, match="nowhere is missing"):
        available_sets(tmp_path / "nowhere")
