"""Modes of stage 6: which is chosen, what the words depend on, and that exact and small say the same."""

import dataclasses
import json
from types import SimpleNamespace

import pytest

from pqm_plugin.__main__ import main
from pqm_plugin.files import write_json
from pqm_plugin.stages import decode
from pqm_plugin.stages.common import opening, partial_results
from pqm_plugin.stages.common.opening import decoding_mode
from pqm_plugin.stages.common.partial_results import DecodeTask, Line, Part
from pqm_plugin.stages.common.systems import parse_system
from pqm_plugin.stages.decode import run_tasks


@pytest.fixture
def asked(recipe):
    """A recipe that leaves the mode to the machine, for two jobs and a model of a thousand weights."""
    recipe.packed_dir.mkdir(parents=True)
    write_json(recipe.packed_dir / "meta.json", {"parameters": 1000})
    return dataclasses.replace(recipe, mode="auto", inference_nj=2)


@pytest.mark.parametrize(("free", "mode"), [(2 * 4 * 4000, "exact"), (2 * 4 * 4000 - 2, "small"), (0, "exact")])
def test_auto_is_exact_where_four_times_the_float_weights_are_free_for_every_job(
    asked, monkeypatch, caplog, free, mode
):
    monkeypatch.setattr(opening, "free_bytes", lambda device: free)
    caplog.set_level("INFO")

    assert decoding_mode(asked) == mode
    assert f"mode auto: {mode}" in caplog.text


def test_all_jobs_of_a_decode_get_the_mode_that_was_picked_once_and_the_log_of_their_parent_says_it(
    asked, monkeypatch, caplog
):
    amounts = iter([2 * 4 * 4000, 1, 1, 1])
    monkeypatch.setattr(opening, "free_bytes", lambda device: next(amounts))
    jobs = []
    monkeypatch.setattr(decode, "run_jobs", lambda found, *_: jobs.extend(found))
    monkeypatch.setattr(decode, "merge", lambda task, material: None)
    monkeypatch.setattr(DecodeTask, "part", lambda task, material, speaker: SimpleNamespace(missing=["1"]))
    monkeypatch.setattr(DecodeTask, "joins_speakers", False)
    monkeypatch.setattr(decode, "family_of", lambda folder: SimpleNamespace(BATCHES=False, STOCK_PROGRESS=b""))
    tasks = [DecodeTask(asked, parse_system(key, []), "dev", "test", ["10", "20"]) for key in ("nf4", "nf4+sat")]
    caplog.set_level("INFO")

    run_tasks(asked, None, tasks)

    assert [job.arguments[-1] for job in jobs] == ["exact"] * 4
    assert caplog.text.count("mode auto: exact") == 1


def test_a_decode_tells_what_was_asked_for_and_what_was_used():
    line = Line("10-1-0000", "GO ON", -1.0, 1.0, 0.1, 1)
    auto = SimpleNamespace(recipe=SimpleNamespace(mode="auto"))

    used = [dataclasses.replace(line, mode=mode) for mode in ("small", "exact", "exact")]

    assert partial_results._modes(auto, used) == {"mode": "auto", "modes_used": ["exact", "small"]}
    # Lines of earlier versions do not say it.
    assert partial_results._modes(auto, [line]) == {"mode": "auto"}


def test_lines_of_earlier_versions_are_read_and_count_as_decoded(tmp_path):
    old = {"utterance": "a", "text": "GO", "score": -1.0, "audio_s": 1.0, "decode_s": 0.1, "peak_rss_bytes": 1}
    (tmp_path / "part").write_text(json.dumps({"request": {"system": "nf4"}}) + "\n" + json.dumps(old) + "\n")

    part = Part.read(tmp_path / "part", {"system": "nf4"}, ["a"])

    assert not part.missing
    assert part.lines[0].mode == ""


def test_an_unknown_mode_is_named_with_the_known_ones(capsys):
    assert main(["decode", "--mode", "tiny"]) == 1
    assert "mode tiny: use one of exact, small, auto" in capsys.readouterr().err


@pytest.mark.slow
def test_small_says_the_words_of_exact(recipe, run, caplog):
    recipe = dataclasses.replace(recipe, systems=("nf4", "nf4+speaker"))
    run("data", "base", "quantize", "pretrain", "adapt", "decode", of=recipe)
    texts = [recipe.decode_dir(key, "dev") / "text" for key in recipe.systems]
    exact = [path.read_bytes() for path in texts]
    parts = [recipe.decode_dir(key, "dev") / "parts" / "10.jsonl" for key in recipe.systems]

    caplog.clear()
    run("decode", of=dataclasses.replace(recipe, mode="small"))
    assert "0 decoding jobs" in caplog.text
    for path in parts:
        path.unlink()
    run("decode", of=dataclasses.replace(recipe, mode="small"))
    assert [path.read_bytes() for path in texts] == exact
