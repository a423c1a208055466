"""Modes of stage 6: which is chosen, what the words depend on, and that exact and small say the same."""

import dataclasses

import pytest

from pqm_plugin.__main__ import main
from pqm_plugin.files import read_json, write_json
from pqm_plugin.stages.common import modes
from pqm_plugin.stages.common.modes import arithmetic, decoding_mode


@pytest.mark.parametrize(("free", "mode"), [(2 * 4 * 4000, "exact"), (2 * 4 * 4000 - 2, "small"), (0, "exact")])
def test_auto_is_exact_where_four_times_the_float_weights_are_free_for_every_job(
    recipe, monkeypatch, caplog, free, mode
):
    recipe = dataclasses.replace(recipe, mode="auto", inference_nj=2)
    recipe.packed_dir.mkdir(parents=True)
    write_json(recipe.packed_dir / "meta.json", {"parameters": 1000})
    monkeypatch.setattr(modes, "free_memory_bytes", lambda: free)
    caplog.set_level("INFO")

    assert decoding_mode(recipe) == mode
    assert f"mode auto: {mode}" in caplog.text


def test_only_bfloat16_on_packed_weights_is_another_arithmetic(recipe):
    fast = dataclasses.replace(recipe, mode="fast")

    assert arithmetic(fast, "nf4") == {"arithmetic": "bfloat16"}
    assert arithmetic(fast, "full") == arithmetic(recipe, "nf4") == {}
    assert arithmetic(dataclasses.replace(recipe, mode="auto"), "nf4") == {}


def test_an_unknown_mode_is_named_with_the_known_ones(capsys):
    assert main(["decode", "--mode", "tiny"]) == 1
    assert "--mode tiny: use one of exact, fast, small, auto" in capsys.readouterr().err


@pytest.mark.slow
def test_small_says_the_words_of_exact_and_fast_is_decoded_anew(recipe, run, caplog):
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

    caplog.clear()
    run("decode", of=dataclasses.replace(recipe, mode="fast"))
    assert "0 decoding jobs" not in caplog.text
    assert read_json(recipe.decode_dir("nf4", "dev") / "run.json")["mode"] == "fast"
