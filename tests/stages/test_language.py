"""The language of a recipe: told by `--language`, or found by stage 2."""

from dataclasses import replace

import pytest

from pqm_plugin.__main__ import main
from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json
from pqm_plugin.stages.recipe import Recipe
from tests.stages.conftest import run, tiny_recipe

__all__ = ["run"]


@pytest.fixture
def recipe(tmp_path, tiny_multilingual, tiny_corpus) -> Recipe:
    """The tiny recipe over a multilingual Whisper that finds German in whatever it hears."""
    return replace(tiny_recipe(tmp_path, tiny_multilingual, tiny_corpus), systems=("stock", "full", "nf4"))


def test_the_option_is_stronger_than_the_configuration_and_both_may_be_names(tmp_path):
    config = tmp_path / "pqm.yaml"
    config.write_text("decode: {language: Hindi}")

    assert Recipe().config.decode.language == "en"
    assert Recipe(pqm_config=config).config.decode.language == "hi"
    assert Recipe(pqm_config=config, language="<|DE|>").config.decode.language == "de"


@pytest.mark.slow
def test_a_language_that_is_found_is_that_of_all_stages_and_of_the_results(recipe, run):
    found = replace(recipe, language="auto")

    run("data", "base", "quantize", "decode", "score", of=found)

    assert read_json(found.language_file)["language"] == found.config.decode.language == "de"
    assert read_json(found.packed_dir / "about.json")["decode"]["language"] == "de"
    results = found.packed_dir / "results.json"
    meta = read_json(results)["meta"]
    assert (meta["search"]["language"], meta["language"], meta["normalizer"]) == ("de", "de", "basic")
    words = [(found.decode_dir(system, "dev") / "text").read_text() for system in ("stock", "full")]
    assert words[0] == words[1]
    part = next((found.decode_dir("nf4", "dev") / "parts").iterdir())
    written_ns = part.stat().st_mtime_ns
    run("decode", of=replace(recipe, language="German"))
    assert part.stat().st_mtime_ns == written_ns


@pytest.mark.slow
def test_adapters_learn_in_the_language_of_the_recipe(recipe, run):
    told = replace(recipe, language="hi", systems=("nf4+sat",))

    run("data", "base", "quantize", "pretrain", of=told)

    assert read_json(told.packed_dir / "sat/pqm.json")["request"]["language"] == "hi"


def test_a_language_that_the_base_does_not_know_is_refused_by_stage_2(recipe, run):
    run("data", of=recipe)

    with pytest.raises(PqmError, match="language 'fr': this model knows de en hi, and auto"):
        run("base", of=replace(recipe, language="fr"))


def test_later_stages_ask_for_stage_2_where_the_language_is_not_found_yet(recipe, run):
    run("data", "base", of=recipe)

    with pytest.raises(PqmError, match="--language auto: .*json is missing: run stage 2"):
        run("quantize", of=replace(recipe, language="auto"))


def test_what_is_no_language_is_one_line_of_the_command(tmp_path, capsys):
    given = ["--datadir", str(tmp_path), "--expdir", str(tmp_path / "exp"), "--base", "x", "--language", "klingon"]

    assert main(["quantize", *given]) == 1
    assert capsys.readouterr().err.startswith("pqm quantize: language 'klingon' is not known: use a code")
