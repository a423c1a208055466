"""The index of adapters that are done: trusted only while it is true, mended when it is broken, quick for thousands."""

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from pqm_plugin.adapters.files import WEIGHTS
from pqm_plugin.corpus.partition import Partition
from pqm_plugin.corpus.partition import Row as PartitionRow
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.stages.adapt import work_of
from pqm_plugin.stages.common.jobs import n_shares, shares
from pqm_plugin.stages.common.opening import weights_hash
from pqm_plugin.stages.common.systems import INDEX, AdapterIndex, Row

REQUEST = {"rank": 1, "seed": 0}


def adapter(root: Path, speaker: str, content: str = "weights") -> Path:
    folder = root / speaker
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_text(content)
    return folder


@pytest.fixture
def root(tmp_path) -> Path:
    """Return a folder with the adapter of one speaker, whom the journal of a job names."""
    folder = adapter(tmp_path, "ann")
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "adapt.0.done").write_text(Row.of(folder, REQUEST).line())
    return tmp_path


def test_what_a_job_noted_is_in_the_index_and_the_journal_is_gone(root):
    AdapterIndex(root)

    assert (root / INDEX).read_text().splitlines()[1].startswith("ann\t")
    assert not list((root / "log").iterdir())
    index = AdapterIndex(root)
    assert index.holds("ann", {"seed": 0, "rank": 1})
    assert not index.holds("ann", {"seed": 1, "rank": 1})
    assert not index.holds("ben", REQUEST)


@pytest.mark.parametrize("harm", ["folder gone", "weights gone", "weights changed"])
def test_a_row_counts_only_while_the_weights_are_those_it_names(root, harm):
    AdapterIndex(root)
    if harm == "weights changed":
        adapter(root, "ann", "others!")
        os.utime(root / "ann" / WEIGHTS, ns=(1, 1))
    else:
        (root / "ann" / WEIGHTS).unlink()
        if harm == "folder gone":
            (root / "ann").rmdir()

    assert not AdapterIndex(root).holds("ann", REQUEST)


def test_broken_lines_are_counted_left_out_and_mended(root, caplog):
    AdapterIndex(root)
    good = (root / INDEX).read_text()
    (root / INDEX).write_text(good + "ben\tcut o" + "\n" + "eve\ta\tb\tc\td\n")

    index = AdapterIndex(root)

    assert index.holds("ann", REQUEST)
    assert "has 2 broken lines" in caplog.text
    assert (root / INDEX).read_text() == good


def test_an_adapter_of_another_format_version_is_not_done_though_the_index_has_it(root, monkeypatch):
    assert AdapterIndex(root).holds("ann", REQUEST)

    monkeypatch.setattr("pqm_plugin.stages.common.systems.FORMAT_VERSION", 2)

    assert not AdapterIndex(root).holds("ann", REQUEST)


def test_hashes_come_from_the_index_while_the_files_stay_the_same(root):
    folder = adapter(root, "ben")
    row = Row.of(folder, REQUEST)
    index = AdapterIndex(root)
    index.add(Row(row.speaker, row.request, "known", row.size_bytes, row.changed_ns))
    index.trust()

    assert weights_hash(folder / WEIGHTS) == "known"
    os.utime(folder / WEIGHTS, ns=(1, 1))
    assert weights_hash(folder / WEIGHTS) != "known"


def test_10000_speakers_are_dealt_out_within_a_second():
    rows = [PartitionRow(f"{i}-{j}", str(i), "dev", "train") for i in range(10_000) for j in range(5)]
    partition = Partition(tuple(rows))

    start = time.process_time()
    work = {speaker: len(partition.utterances("train", speaker)) for speaker in partition.speakers("train")}
    dealt = shares(work, n_shares(len(work), 50, 100))

    assert time.process_time() - start < 1
    assert len(dealt) == 100
    assert {len(share) for share in dealt} == {100}


@pytest.mark.parametrize(
    ("speakers", "parallel", "most", "expected"),
    [(10_000, 50, 100, 100), (10_000, 200, 100, 200), (3, 8, 100, 3), (0, 8, 100, 0), (101, 1, 100, 2)],
)
def test_there_are_jobs_for_all_processes_and_none_is_too_large(speakers, parallel, most, expected):
    assert n_shares(speakers, parallel, most) == expected


def test_shares_have_about_as_much_work_and_all_speakers():
    assert shares({"a": 9, "b": 1, "c": 2, "d": 5}, 2) == [["a", "b"], ["d", "c"]]
    assert shares({}, 2) == []


def test_2000_adapters_are_looked_up_within_a_second(tmp_path):
    request = {"seed": 0}
    row = Row.of(adapter(tmp_path, "0"), request)
    lines = []
    for name in map(str, range(2000)):
        status = (adapter(tmp_path, name) / WEIGHTS).stat()
        lines.append(Row(name, row.request, row.sha256, status.st_size, status.st_mtime_ns).line())
    (tmp_path / INDEX).write_text("".join(lines))

    start = time.process_time()
    index = AdapterIndex(tmp_path)
    done = sum(index.holds(str(name), request) for name in range(2000))

    assert done == 2000
    assert time.process_time() - start < 1


def test_work_is_seconds_of_segments_or_bytes_of_files(tmp_path, monkeypatch):
    audio = tmp_path / "a.wav"
    audio.write_bytes(bytes(1000))
    whole, piece = Utterance("u1", "ada", "", str(audio)), Utterance("u2", "bob", "", str(audio), 1.0, 3.5, "r")
    spoken = {"ada": [whole], "bob": [piece], "eve": [Utterance("u3", "eve", "", "x.ark:7")]}
    material = SimpleNamespace(utterances=lambda split, speaker: spoken[speaker])

    assert [work_of(material, name) for name in spoken] == [2000, 5, 2]
