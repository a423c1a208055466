"""Broken packs, adapters and manifests: each ends in an error for people, or in a whole model.

Hundreds by default, thousands with PQM_FUZZ=10, as .ci/run asks.
"""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pqm_plugin
from pqm_plugin.adapters.files import check_adapter, read_info
from pqm_plugin.adapters.options import CONFIG, INFO, WEIGHTS
from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json, sha256, write_json
from pqm_plugin.personal.facts import facts, lines
from pqm_plugin.personal.folder import ModelFolder
from pqm_plugin.personal.options import EnrollOptions, enroll_options, search_options
from pqm_plugin.personal.packing import pack
from pqm_plugin.personal.unpacking import Manifest, unpack
from tests.faults import contents, tries
from tests.personal.conftest import TEXTS, noise

pytestmark = pytest.mark.slow
ODD = [None, True, -1, 0, 2**70, 1e308, float("nan"), "", "../../x", "\0", "é" * 300, [], [[]], {}, {"a": 1}, "NaN"]


@pytest.fixture(scope="session")
def whole(packed, tiny_conformer, tmp_path_factory) -> Path:
    """A folder with a packed model, one speaker, and the pack of it, `a.pqm`."""
    root = tmp_path_factory.mktemp("whole")
    shutil.copytree(packed(tiny_conformer), root / "model")
    options = EnrollOptions(rank=1, epochs=1, learning_rate=0.01)
    pqm_plugin.load(root / "model").enroll("ada", [noise(place) for place in range(3)], TEXTS[:3], options=options)
    pack(root / "model", root / "a.pqm")
    return root


def broken_bytes(data: bytes, chance: random.Random) -> bytes:
    """Some bytes changed, cut off, doubled or taken out; more often at the ends, where formats keep their lists."""
    made = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8))):
        near = chance.choice((len(made), min(len(made), 400)))
        at = chance.randrange(near) if chance.random() < 0.5 else len(made) - 1 - chance.randrange(near)
        kind = chance.randrange(5)
        if kind == 0:
            made[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            made[at : at + 4] = chance.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"PK\1\2"))
        elif kind == 2:
            del made[at : at + chance.choice((1, 16, 1000))]
        elif kind == 3:
            made[at:at] = made[at : at + chance.choice((1, 50))]
        else:
            del made[at:]
        if not made:
            return b""
    return bytes(made)


def broken_json(value: Any, chance: random.Random) -> Any:
    """The same with one value, somewhere inside, replaced, removed or renamed."""
    value = json.loads(json.dumps(value))
    here = value
    while True:
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        if not keys:
            return value
        key = chance.choice(keys)
        if isinstance(here[key], dict | list) and here[key] and chance.random() < 0.7:
            here = here[key]
            continue
        if isinstance(here, dict) and chance.random() < 0.3:
            moved = here.pop(key)
            if chance.random() < 0.5:
                here[str(chance.choice(ODD))] = moved
        else:
            here[key] = chance.choice(ODD)
        return value


def ends_well(step: Callable[[], object], what: object) -> bool:
    """Whether a step went through; if not, what it raised must be one line for people."""
    try:
        step()
    except PqmError as error:
        assert "\n" not in str(error) and len(str(error)) < 1500, (what, str(error))
        return False
    except BaseException as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    return True


def test_broken_packs_leave_no_model_or_the_very_same(whole, tmp_path):
    data = (whole / "a.pqm").read_bytes()
    bad, out = tmp_path / "bad.pqm", tmp_path / "in/out"
    unpack(whole / "a.pqm", tmp_path / "as_packed")
    expected = contents(tmp_path / "as_packed")
    shutil.rmtree(tmp_path / "as_packed")
    assert any(name.endswith("adapter_model.safetensors") for name in expected)
    n_whole = 0

    for seed in tries(200):
        bad.write_bytes(broken_bytes(data, random.Random(seed)))
        if ends_well(lambda: unpack(bad, out), seed):
            n_whole += 1
            assert contents(out) == expected, seed
            shutil.rmtree(out)
        assert not [path for path in tmp_path.rglob("*") if path.is_file() and path != bad], seed

    # A flipped bit in a time of the archive harms nothing: what is unpacked is the same to the byte.
    assert n_whole < len(tries(200)) / 5


def test_broken_manifests_are_refused_or_as_good_as_before(whole):
    manifest = json.loads(Manifest.parse(_manifest(whole), "a").to_bytes())

    for seed in tries(100):
        made = json.dumps(broken_json(manifest, random.Random(seed))).encode()
        ends_well(lambda data=made: Manifest.parse(data, "bad"), seed)
        ends_well(lambda s=seed: Manifest.parse(broken_bytes(_manifest(whole), random.Random(s)), "bad"), seed)
    for deep in (b"[" * 100_000, b'{"a":' * 100_000, b"1" * 10_000, b"\xff\xfe"):
        assert not ends_well(lambda data=deep: Manifest.parse(data, "bad"), deep[:5])


def _manifest(whole: Path) -> bytes:
    import zipfile

    with zipfile.ZipFile(whole / "a.pqm") as archive:
        return archive.read("manifest.json")


def test_broken_adapters_are_refused_before_peft_reads_them(whole, tmp_path):
    adapter = shutil.copytree(whole / "model/speakers/ada", tmp_path / "ada")
    for name, check in ((CONFIG, check_adapter), (INFO, read_info), (WEIGHTS, check_adapter)):
        data = (adapter / name).read_bytes()
        for seed in tries(50):
            chance = random.Random(seed)
            if name == WEIGHTS or seed % 2:
                (adapter / name).write_bytes(broken_bytes(data, chance))
            else:
                (adapter / name).write_text(json.dumps(broken_json(json.loads(data), chance)))
            ends_well(lambda check=check: check(adapter), (name, seed))
        (adapter / name).write_bytes(data)


@pytest.mark.parametrize(
    "change",
    [
        {"megatron_config": {"a": 1}, "megatron_core": "antigravity"},
        {"peft_type": "PROMPT_TUNING"},
        {"r": 10**9},
        {"target_modules": "(a+)+$"},
        {"modules_to_save": ["decoder"]},
        {"init_lora_weights": "pissa"},
        {"trainable_token_indices": [1]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_peft_would_act_upon_is_refused(whole, tmp_path, change):
    adapter = shutil.copytree(whole / "model/speakers/ada", tmp_path / "ada")
    write_json(adapter / CONFIG, read_json(adapter / CONFIG) | change)

    with pytest.raises(PqmError, match="make or fetch it again"):
        check_adapter(adapter)


def test_broken_records_are_told_or_refused(whole, tmp_path):
    model = shutil.copytree(whole / "model", tmp_path / "model")
    results = {"meta": {"set": "dev"}, "systems": {"nf4": {"wer": 0.1, "wer_ci95": [0, 1], "utterances": 3}}}
    about = {"licence": "MIT", "source": "x", "decode": {"beam_size": 2}, "enroll": {"rank": 2, "alpha": 1.0}}
    write_json(model / "results.json", results)
    write_json(model / "about.json", about)
    ada = model / "speakers/ada" / INFO

    def read() -> None:
        folder = ModelFolder.of(model)
        list(lines(facts(folder)))
        search_options(folder.about())
        enroll_options(folder.about())

    for path in (model / "results.json", model / "about.json", model / "meta.json", ada):
        good = read_json(path)
        for seed in tries(25):
            path.write_text(json.dumps(broken_json(good, random.Random(seed))))
            ends_well(read, (path.name, seed))
        write_json(path, good)
    read()


def test_broken_weights_with_a_right_hash_build_no_model_or_one_of_the_right_shape(whole, tmp_path):
    model = shutil.copytree(whole / "model", tmp_path / "model")
    data, meta = (model / "model.safetensors").read_bytes(), read_json(model / "meta.json")
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    inner = json.loads(header["__metadata__"]["pqm"])

    for seed in tries(9):
        chance = random.Random(seed)
        if seed % 3 == 0:
            made = broken_bytes(data, chance)
        else:
            if seed % 3 == 1:
                told = json.dumps(header | {"__metadata__": {"pqm": json.dumps(broken_json(inner, chance))}})
            else:
                told = json.dumps(broken_json(header, chance))
            made = len(told.encode()).to_bytes(8, "little") + told.encode() + data[8 + length :]
        (model / "model.safetensors").write_bytes(made)
        write_json(model / "meta.json", meta | {"sha256": sha256(model / "model.safetensors")})
        ends_well(lambda: pqm_plugin.load(model), seed)
