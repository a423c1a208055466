"""A disk that is really full: one line says which file and what to do, and nothing earlier is lost."""

import dataclasses
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json, whole_file, whole_folder, write_text
from pqm_plugin.stages.common.jobs import Job, run_jobs
from pqm_plugin.stages.common.partial_results import Line, Part
from tests.faults import PAGE_BYTES, Disk

REMEDY = r": the disk is full; free some space and run the same command again, nothing earlier was touched"


@pytest.mark.parametrize("fill", [Disk.fill, Disk.take_all_names])
def test_a_text_stays_as_it_was_and_is_written_once_there_is_space(disk, fill):
    path = disk.folder / "a.txt"
    write_text(path, "earlier")
    fill(disk)

    with pytest.raises(PqmError, match=re.escape(str(path)) + REMEDY) as caught:
        write_text(path, "later")

    assert "\n" not in str(caught.value)
    assert path.read_text() == "earlier"
    assert sorted(os.listdir(disk.folder)) == ["a.txt", "filler"]
    disk.free()
    write_text(path, "later")
    assert path.read_text() == "later"


def in_plain(folder: Path) -> None:
    (folder / "large").write_bytes(bytes(2**20))


def in_text(folder: Path) -> None:
    write_text(folder / "large", "x" * 2**20)


@pytest.mark.parametrize(("write", "named"), [(in_plain, "f"), (in_text, "f/large")])
def test_a_folder_stays_as_it_was_and_is_named_as_it_will_be_called(disk, write, named):
    path = disk.folder / "f"
    with whole_folder(path) as scratch:
        write_text(scratch / "small", "earlier")

    with pytest.raises(PqmError, match="^" + re.escape(str(disk.folder / named)) + REMEDY), whole_folder(path) as part:
        write_text(part / "small", "later")
        write(part)

    assert os.listdir(disk.folder) == ["f"]
    assert (path / "small").read_text() == "earlier"
    with whole_folder(path) as scratch:
        write_text(scratch / "small", "later")
    assert (path / "small").read_text() == "later"


def by_safetensors(path: Path) -> None:
    save_file({"a": torch.zeros(2**19)}, path)


def by_torch(path: Path) -> None:
    with path.open("wb") as file:
        torch.save({"a": torch.zeros(2**19)}, file)


@pytest.mark.parametrize("write", [by_safetensors, by_torch])
def test_a_full_disk_is_known_as_one_whichever_library_met_it(disk, write):
    path = disk.folder / "weights"

    with pytest.raises(PqmError, match=re.escape(str(path)) + REMEDY), whole_file(path) as scratch:
        write(scratch)

    assert os.listdir(disk.folder) == []


def test_decoded_utterances_are_kept_and_the_next_run_goes_on_after_them(disk):
    path, names = disk.folder / "parts" / "84.jsonl", ["u1", "u2"]
    part = Part.read(path, {"beam": 2}, names)
    part.start()
    part.append(Line("u1", "A CAT", -1.5, 2.0, 0.5, 100))
    disk.fill()

    with pytest.raises(PqmError, match=re.escape(str(path)) + REMEDY):
        part.append(Line("u2", "A DOG " * PAGE_BYTES, -1.5, 2.0, 0.5, 100))

    disk.free()
    again = Part.read(path, {"beam": 2}, names)
    assert [line.text for line in again.lines] == ["A CAT"]
    assert again.missing == ["u2"]
    again.start()
    again.append(Line("u2", "A DOG", -1.5, 2.0, 0.5, 100))
    assert [line.text for line in Part.read(path, {"beam": 2}, names).lines] == ["A CAT", "A DOG"]


def append_plainly(path: Path) -> None:
    """A write outside of any whole file, as counters and progress bars do."""
    with path.open("a") as file:
        file.write("x" * PAGE_BYTES)


@pytest.mark.slow
@pytest.mark.parametrize(("function", "named"), [(write_text, "words"), (append_plainly, "log/a.log")])
def test_a_job_that_cannot_even_write_its_log_says_why_it_failed(disk, function: Callable[..., None], named):
    words = disk.folder / "words"
    arguments = (words, "A CAT") if function is write_text else (words,)
    job = Job("a", function, arguments, disk.folder / "log" / "a.log")
    disk.fill()

    with pytest.raises(PqmError, match=re.escape(f"1 of 1 jobs failed, the others are done: a: {disk.folder / named}")):
        run_jobs([job], 1, "test")

    disk.free()
    run_jobs([job], 1, "test")
    assert words.read_text().endswith("A CAT" if function is write_text else "x")


def occupied(*paths: Path) -> int:
    return sum(-(-path.stat().st_size // PAGE_BYTES) * PAGE_BYTES for path in paths)


@pytest.mark.slow
def test_quantising_again_on_a_full_disk_leaves_the_earlier_model(disk, recipe, run):
    here = dataclasses.replace(recipe, expdir=disk.folder / "exp")
    run("data", "base", "quantize", of=here)
    before = {path.name: path.read_bytes() for path in here.packed_dir.iterdir()}
    recipe.pqm_config.write_text(recipe.pqm_config.read_text().replace("keep: [embedding]", "keep: [cross_attention]"))
    other = dataclasses.replace(here)
    disk.fill(occupied(*(path for path in here.packed_dir.iterdir() if path.suffix != ".safetensors")) + 2 * PAGE_BYTES)

    with pytest.raises(PqmError, match=rf"^{here.packed_dir}\.new/model\.safetensors" + REMEDY):
        run("quantize", of=other)

    assert {path.name: path.read_bytes() for path in here.packed_dir.iterdir()} == before
    folders = sorted(path.name for path in here.expdir.iterdir() if path.is_dir())
    assert folders == [here.base_dir.name, here.packed_dir.name]
    disk.free()
    run("quantize", of=other)
    assert read_json(here.packed_dir / "meta.json")["request"]["quantize"]["keep"] == ["cross_attention"]
    assert (here.packed_dir / "model.safetensors").read_bytes() != before["model.safetensors"]
