"""What is handed on arrives whole, or not at all."""

import json
import zipfile
from pathlib import Path

import pytest

import pqm_plugin
from pqm_plugin.adapters.options import CONFIG, INFO, WEIGHTS
from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json, write_json
from pqm_plugin.personal.facts import problems
from pqm_plugin.personal.options import EnrollOptions
from pqm_plugin.personal.packing import pack
from pqm_plugin.personal.unpacking import check_pack, unpack
from tests.personal.conftest import TEXTS, noise

RESULTS = {
    "meta": {"set": "dev", "commit": "abc", "seed": 0, "command": "run.sh --corpus /mnt/ada/speech"},
    "systems": {
        "espnet": {"wer": 0.1, "utterances": 7, "words": 70},
        "nf4+speaker": {"wer": 0.125, "wer_ci95": [0.1, 0.2], "utterances": 7, "words": 70, "speakers": {"ada": {}}},
    },
}


@pytest.fixture
def model(folder) -> Path:
    """A packed model with a speaker and measured error rates."""
    options = EnrollOptions(rank=1, epochs=1, learning_rate=0.01)
    pqm_plugin.load(folder).enroll("ada", [noise(place) for place in range(3)], TEXTS[:3], options=options)
    write_json(folder / "results.json", RESULTS)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.slow
def test_a_model_that_was_packed_and_unpacked_says_the_same_words(model, tmp_path):
    pack(model, tmp_path / "a.pqm")
    pack(model, tmp_path / "b.pqm")

    found = unpack(tmp_path / "a.pqm", tmp_path / "out")

    assert (tmp_path / "a.pqm").read_bytes() == (tmp_path / "b.pqm").read_bytes()
    assert problems(found.path) == problems(tmp_path / "a.pqm") == []
    for speaker in (None, "ada"):
        before, after = (pqm_plugin.load(path).transcribe(noise(9), speaker) for path in (model, found.path))
        assert before == after
    for name in (WEIGHTS, CONFIG, INFO):
        assert (found.path / "speakers/ada" / name).read_bytes() == (model / "speakers/ada" / name).read_bytes()


@pytest.mark.slow
def test_the_card_says_what_was_measured_and_the_pack_says_nothing_of_people_or_machines(model, tmp_path):
    pack(model, tmp_path / "a.pqm")

    found = unpack(tmp_path / "a.pqm", tmp_path / "out").path

    card = (found / "README.md").read_text()
    assert (
        "nf4+speaker: 12.50 % [10.00, 20.00] (set dev, utterances 7, words 70, commit abc, seed 0; results.json)"
        in card
    )
    assert "licence of the base: CC BY 4.0" in card and "license: cc-by-4.0" in card
    assert read_json(model / "meta.json")["sha256"] in card
    everything = b"".join(contents(found).values())
    assert b"/mnt/ada" not in everything and str(tmp_path).encode() not in everything
    assert b'"speakers"' not in (found / "results.json").read_bytes()


@pytest.mark.slow
def test_only_the_speakers_that_are_named_go_along(model, tmp_path):
    pack(model, tmp_path / "none.pqm", speakers=[])

    assert unpack(tmp_path / "none.pqm", tmp_path / "none").speakers() == []
    with pytest.raises(PqmError, match="has no speaker 'bob'"):
        pack(model, tmp_path / "b.pqm", speakers=["bob"])
    write_json(model / "speakers/ada" / INFO, read_json(model / "speakers/ada" / INFO) | {"base_sha256": "0" * 64})
    with pytest.raises(PqmError, match="another base"):
        pack(model, tmp_path / "b.pqm")
    assert not (tmp_path / "b.pqm").exists()
    assert any("another base" in problem for problem in problems(model))


def rewritten(source: Path, target: Path, **changes) -> Path:
    """A pack with other entries: name → bytes, or None to leave it out; `manifest` is a function of its JSON."""
    edit = changes.pop("manifest", lambda found: found)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = changes.pop(name, old.read(name))
            if name == "manifest.json" and data is not None:
                data = json.dumps(edit(json.loads(data))).encode()
            if data is not None:
                new.writestr(name, data)
        for name, data in changes.items():
            new.writestr(name, data)
    return target


def with_file(name: str):
    """A change of the manifest that lists one more file, of one byte."""
    entry = {"size_bytes": 1, "sha256": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"}
    return lambda found: found | {"files": found["files"] | {name: entry}}


@pytest.fixture(scope="session")
def small_pack(packed, tiny_conformer, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pack") / "a.pqm"
    pack(packed(tiny_conformer), path)
    return path


@pytest.mark.parametrize(
    "name",
    [
        *("../evil.json", "/etc/evil.json", "speakers/../evil.json", "a\\b.json", "speakers/ada/../../x.json"),
        *("evil.py", "model.pth", "pytorch_model.bin", "speakers/ada/adapter_model.bin", "sat/extra.json", "con.json"),
        *(".hidden.json", "speakers/log/pqm.json", "a/b/c/d.json", "META.json"),
    ],
)
@pytest.mark.slow
def test_a_name_that_no_model_has_is_refused_and_nothing_is_written(small_pack, tmp_path, name):
    bad = rewritten(small_pack, tmp_path / "bad.pqm", manifest=with_file(name), **{name: b"x"})

    with pytest.raises(PqmError, match="refused"):
        unpack(bad, tmp_path / "deep/out")

    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["bad.pqm"]


@pytest.mark.slow
def test_what_is_not_as_the_manifest_says_is_refused(small_pack, tmp_path):
    def other_size(found):
        found["files"]["meta.json"]["size_bytes"] = 2**49
        return found

    def other_version(found):
        return found | {"format_version": 2}

    for why, changes in {
        "its hash differs": {"tokens.txt": b"x" * zipfile.ZipFile(small_pack).getinfo("tokens.txt").file_size},
        "listed are": {"manifest": other_size},
        "format version 2": {"manifest": other_version},
        "alone": {"config.yaml": None},
        "not a pack of a personal model": {"manifest.json": None},
        "is missing": {"manifest": lambda found: found | {"files": {}}},
    }.items():
        bad = rewritten(small_pack, tmp_path / "bad.pqm", **changes)
        for step in (check_pack, lambda path: unpack(path, tmp_path / "out")):
            with pytest.raises(PqmError, match=why):
                step(bad)
        assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_links_compressed_entries_and_entries_that_stand_twice_are_refused(small_pack, tmp_path):
    data = zipfile.ZipFile(small_pack).read("manifest.json")
    link = zipfile.ZipInfo("link.json")
    link.external_attr = 0o120777 << 16
    for why, entries in {
        "is a link": [(link, b"/etc/hostname", zipfile.ZIP_STORED)],
        "compressed": [("bomb.json", b"\0" * 10**7, zipfile.ZIP_DEFLATED)],
    }.items():
        with zipfile.ZipFile(tmp_path / "bad.pqm", "w") as archive:
            for name, content, how in [("manifest.json", data, zipfile.ZIP_STORED), *entries]:
                archive.writestr(name, content, how)
        with pytest.raises(PqmError, match=why):
            unpack(tmp_path / "bad.pqm", tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "bad.pqm", "w") as archive, pytest.warns(UserWarning):
        archive.writestr("manifest.json", data)
        archive.writestr("manifest.json", data)
    with pytest.raises(PqmError, match="twice"):
        unpack(tmp_path / "bad.pqm", tmp_path / "out")


@pytest.mark.slow
def test_a_folder_that_is_there_is_left_alone_and_a_full_disk_is_known_before(small_pack, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    with pytest.raises(PqmError, match="there already"):
        unpack(small_pack, tmp_path / "out")

    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": 10}))
    with pytest.raises(PqmError, match="0 MB free"):
        unpack(small_pack, tmp_path / "new")

    assert not (tmp_path / "new").exists()
