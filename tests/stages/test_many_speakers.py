"""Several speakers a job, for which it loads the base once."""

from types import SimpleNamespace

import pytest

from pqm_plugin.stages import adapt, decode
from pqm_plugin.stages.adapt import adapt_speakers
from pqm_plugin.stages.common.material import Material
from pqm_plugin.stages.common.partial_results import DecodeTask
from pqm_plugin.stages.common.systems import AdapterSet, parse_system


@pytest.fixture
def loads(monkeypatch):
    """The base kinds that are loaded, one entry a load."""
    found = []

    def counted(plain):
        return lambda recipe, kind, *more: found.append(kind) or plain(recipe, kind, *more)

    for module in (adapt, decode):
        monkeypatch.setattr(module, "open_base", counted(module.open_base))
    return found


@pytest.mark.slow
def test_a_job_adapts_and_decodes_all_its_speakers_with_one_load_of_the_base(recipe, run, loads, tmp_path):
    run("data", "base", "quantize", "pretrain")
    adapted, decoded = tmp_path / "adapt.done", tmp_path / "decode.done"
    decoded.touch()
    task = DecodeTask(recipe, parse_system("nf4+speaker", []), "dev", "test", ["10", "20"])
    loads.clear()

    adapt_speakers(recipe, AdapterSet("nf4"), [["10"], ["20"]], adapted)
    decode.decode_speakers(task, [["10"], ["20"]], decoded, "exact")

    assert loads == ["nf4", "nf4"]
    assert [line.split("\t")[0] for line in adapted.read_text().splitlines()] == ["10", "20"]
    parts = [task.part(Material(recipe), speaker) for speaker in ("10", "20")]
    assert [len(part.lines) for part in parts] == [2, 2]
    assert not any(part.missing for part in parts)


@pytest.mark.parametrize(("most", "expected"), [(100, [8]), (4, [4, 4]), (1, [2, 2, 2, 2])])
def test_a_decoding_job_has_so_many_speakers_though_some_are_searched_together(
    tmp_path, tiny_conformer, monkeypatch, most, expected
):
    monkeypatch.setattr(decode, "_BATCHES_A_GROUP", 1)
    config = SimpleNamespace(decode=SimpleNamespace(batch_size=4))
    recipe = SimpleNamespace(base_dir=tiny_conformer, config=config, inference_nj=1, speakers_per_job=most)
    task = SimpleNamespace(
        **{"recipe": recipe, "folder": tmp_path, "set_name": "dev", "split": "test", "joins_speakers": True},
        speakers=list("abcdefgh"),
        system=SimpleNamespace(key="nf4", base_kind="nf4"),
        part=lambda material, speaker: SimpleNamespace(missing=["1", "2"]),
    )
    two_each = SimpleNamespace(partition=SimpleNamespace(utterances=lambda split, speaker: ["1", "2"]))

    jobs = list(decode._jobs(task, two_each, "exact"))

    assert [sum(map(len, one.arguments[1])) for one in jobs] == expected
    assert all(len(group) == 2 for one in jobs for group in one.arguments[1])
