"""A personal model on a machine that fails it: a full disk, no right to write, many at once."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Barrier

import pytest
import torch
from safetensors.torch import load_file, save_file

import pqm_plugin
from pqm_plugin.adapters.options import INFO, WEIGHTS
from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json, write_json
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.personal.model import PersonalModel
from pqm_plugin.personal.options import EnrollOptions
from tests.faults import PAGE_BYTES, allow_writing, contents, drop_rights, forbid_writing, in_child, started
from tests.personal.conftest import TEXTS, noise

pytestmark = pytest.mark.slow
CLIPS = [noise(place) for place in range(3)]
OPTIONS = EnrollOptions(rank=1, epochs=2, learning_rate=0.01)
N_AT_ONCE = 100
QUICK = SearchOptions(beam_size=1, ctc_weight=0.0, max_length_ratio=0.3)


def enroll(folder: Path, speaker: str = "ada", first: int = 0) -> None:
    clips = [noise(first + place) for place in range(3)]
    pqm_plugin.load(folder).enroll(speaker, clips, TEXTS[:3], options=OPTIONS)


def test_an_enrolment_on_a_full_disk_says_so_loses_nothing_and_goes_on_when_there_is_space(conformer, disk):
    folder = Path(shutil.copytree(conformer, disk.folder / "model"))
    before, free_bytes = contents(folder), disk.used_bytes()
    assert in_child(partial(enroll, folder), folder).said == ""
    expected, size_bytes = contents(folder), disk.used_bytes() - free_bytes

    for share in (0, 0.3, 0.7):
        shutil.rmtree(folder / "speakers")
        disk.fill(int(share * size_bytes) // PAGE_BYTES * PAGE_BYTES)
        said = in_child(partial(enroll, folder), folder).said
        disk.free()

        assert "the disk is full; free some space" in said and str(folder) in said and "\n" not in said, share
        assert before.items() <= contents(folder).items(), share
        assert in_child(partial(enroll, folder), folder).said == "", share
        assert contents(folder) == expected, share


def test_a_model_that_may_not_be_written_is_heard_with_and_an_enrolment_says_what_is_forbidden(conformer, tmp_path):
    enroll(conformer)
    before, expected = contents(conformer), pqm_plugin.load(conformer).transcribe(noise(5), "ada")
    forbid_writing(conformer)
    try:
        heard = in_child(lambda: _same(conformer, expected), tmp_path, before=drop_rights)
        learned = in_child(partial(enroll, conformer, "bob"), tmp_path, before=drop_rights)
    finally:
        allow_writing(conformer)

    assert heard.said == ""
    assert (
        str(conformer / "speakers") in learned.said and "permission denied; correct its access rights" in learned.said
    )
    assert contents(conformer) == before


def _same(folder: Path, expected: object) -> None:
    assert pqm_plugin.load(folder).transcribe(noise(5), "ada") == expected


def test_two_speakers_who_enrol_at_once_get_the_adapters_that_one_by_one_gives(conformer, tmp_path):
    alone = Path(shutil.copytree(conformer, tmp_path / "alone"))
    for place, name in enumerate(("ada", "bob")):
        enroll(alone, name, 10 * place)

    both = [
        started(partial(enroll, conformer, name, 10 * place), conformer) for place, name in enumerate(("ada", "bob"))
    ]

    assert [wait().said for wait in both] == ["", ""]
    assert contents(conformer) == contents(alone)


@pytest.fixture
def crowd(conformer) -> Path:
    """A model with as many speakers as transcribe at once, each with weights of their own."""
    enroll(conformer)
    first = conformer / "speakers/ada"
    tensors = load_file(first / WEIGHTS)
    for place in range(N_AT_ONCE):
        torch.manual_seed(place)
        folder = Path(shutil.copytree(first, conformer / f"speakers/s{place}"))
        save_file({name: value + 0.2 * torch.randn_like(value) for name, value in tensors.items()}, folder / WEIGHTS)
    return conformer


def test_100_speakers_who_are_heard_at_once_get_the_words_that_one_by_one_gives(crowd):
    model = PersonalModel(crowd, QUICK)
    expected = [model.transcribe(noise(place, 8000), f"s{place}") for place in range(N_AT_ONCE)]
    together, barrier = PersonalModel(crowd, QUICK), Barrier(N_AT_ONCE)

    def hear(place: int):
        barrier.wait()
        return together.transcribe(noise(place, 8000), f"s{place}")

    with ThreadPoolExecutor(N_AT_ONCE) as pool:
        found = list(pool.map(hear, range(N_AT_ONCE)))

    assert found == expected
    others = [model.transcribe(noise(place, 8000), f"s{place + 1}").segments[0].score for place in range(3)]
    assert all(score != expected[place].segments[0].score for place, score in enumerate(others))


def test_an_adapter_of_an_older_format_version_is_refused_and_enrolling_makes_it_anew(conformer):
    enroll(conformer)
    info, expected = conformer / "speakers/ada" / INFO, contents(conformer)
    write_json(info, read_json(info) | {"format_version": 0})

    with pytest.raises(PqmError, match=r"another format version \(0, this program reads 1\).*`pqm enroll`"):
        pqm_plugin.load(conformer).transcribe(noise(5), "ada")
    enroll(conformer)

    assert contents(conformer) == expected
