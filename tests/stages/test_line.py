"""The line as a whole, on a tiny model: what each stage leaves, and that a second run changes nothing."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pqm_plugin.adapters.files import read_info
from pqm_plugin.corpus.audio import load_audio
from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json
from pqm_plugin.models.families import family_of
from pqm_plugin.personal.folder import ModelFolder
from pqm_plugin.personal.options import search_options
from pqm_plugin.stages.common.material import Material
from pqm_plugin.stages.common.opening import open_base
from pqm_plugin.stages.common.partial_results import Part
from pqm_plugin.words import read_words
from tests.stages.conftest import write_tiny_corpus
from tests.stages.test_kill import command

pytestmark = pytest.mark.slow


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that is a result: not logs, not counters."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.parent.name not in {"log", "stock"})
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if "stock" not in path.parts}


def stable(files: dict[str, bytes]) -> dict[str, bytes]:
    """Without what holds times and memory."""
    timed = {"run.json", "index.tsv"}
    return {name: data for name, data in files.items() if Path(name).name not in timed and "parts" not in name}


def test_all_stages_give_all_seven_systems_and_a_report(recipe, run):
    run("data", "base", "quantize", "pretrain", "adapt", "decode", "score", "report")

    results = read_json(recipe.packed_dir / "results.json")
    stock, *others = family_of(recipe.base_dir).BASELINES
    assert list(results["systems"]) == [stock, "full", *others, "nf4", "nf4+sat", "nf4+speaker", "nf4+other"]
    assert results["systems"]["full"]["errors"] == results["systems"][stock]["errors"]
    decodes = [(recipe.decode_dir(key, "dev") / "text").read_bytes() for key in (stock, "full")]
    assert decodes[0] == decodes[1]
    page = (recipe.packed_dir / "RESULTS.md").read_text()
    assert "nf4+speaker" in page
    assert f"letter case of references and training texts: {Material(recipe).fit.case}\n" in page
    assert (recipe.packed_dir / "figures" / "wer_by_speaker.svg").is_file()


def test_running_all_again_does_nothing_anew_and_changes_no_byte(recipe, run, caplog):
    everything = ("data", "base", "quantize", "pretrain", "adapt", "decode", "score")
    recipe = dataclasses.replace(recipe, systems=("full", "nf4", "nf4+sat", "nf4+speaker", "nf4+other"))
    run(*everything, of=recipe)
    before = contents(recipe.expdir)
    caplog.clear()

    run(*everything, of=recipe)

    assert contents(recipe.expdir) == before
    assert "is there already" in caplog.text
    assert "0 speakers to adapt" in caplog.text
    assert "0 decoding jobs" in caplog.text


def test_stages_that_have_nothing_to_do_load_none_of_the_large_libraries(recipe, run):
    stages = ("data", "base", "quantize", "pretrain", "adapt", "decode", "score", "report")
    recipe = dataclasses.replace(recipe, systems=("full", "nf4", "nf4+sat", "nf4+speaker", "nf4+other"))
    run("data", "base", "quantize", "pretrain", "adapt", "decode", "score", of=recipe)
    program = """
import json, sys
from pqm_plugin.__main__ import main
import pqm_plugin.stages.sensitivity, pqm_plugin.stages.study
for call in json.loads(sys.argv[1]):
    status = main(call)
    print(status, call[0], *sorted({"espnet2", "transformers", "peft", "torch._dynamo"} & sys.modules.keys()))
"""
    calls = json.dumps([command(stage, recipe)[3:] for stage in stages])

    found = subprocess.run([sys.executable, "-c", program, calls], capture_output=True, text=True, check=True)

    # The report says where it is, too.
    said = [line for line in found.stdout.splitlines() if line[:2] in ("0 ", "1 ", "2 ")]
    assert said == [f"0 {stage}" for stage in stages], found.stderr


def test_two_runs_with_one_seed_give_the_same_bytes(recipe, run, tmp_path):
    systems = ("nf4+speaker",)
    outcomes = []
    for name in ("one", "two"):
        here = dataclasses.replace(recipe, expdir=tmp_path / name, systems=systems)
        run("data", "base", "quantize", "pretrain", "adapt", "decode", of=here)
        outcomes.append(stable(contents(here.expdir)))

    assert outcomes[0] == outcomes[1]


def test_adapters_say_what_they_are_and_train_their_share_alone(recipe, run):
    run("data", "base", "quantize", "pretrain", "adapt")

    info = read_info(recipe.packed_dir / "speakers" / "10")
    assert info.trained_on == "10"
    assert info.base_sha256 == read_json(recipe.packed_dir / "meta.json")["sha256"]
    assert info.parameters / info.base_parameters < 0.05
    assert info.base_parameters == read_json(recipe.base_dir / "pqm_base.json")["parameters"]
    assert [row["epoch"] for row in info.log] == [0, 1, 2]


def test_an_adapter_that_is_too_large_is_refused_with_the_remedy(recipe, run, tmp_path):
    config = tmp_path / "large.yaml"
    config.write_text("lora: {rank: 8}\n")
    large = dataclasses.replace(recipe, pqm_config=config)
    run("data", "base", "quantize", of=large)

    with pytest.raises(PqmError, match=r"allowed are up to 1\.00%: lower lora\.rank"):
        run("pretrain", of=large)


def test_changed_settings_are_named_and_only_what_depends_on_them_is_done_again(recipe, run, caplog, tmp_path):
    run("data", "base", "quantize", "pretrain")
    config = tmp_path / "other.yaml"
    config.write_text(recipe.pqm_config.read_text().replace("beam_size: 2", "beam_size: 3"))
    other_search = dataclasses.replace(recipe, pqm_config=config)
    before = (recipe.packed_dir / "sat" / "adapter_model.safetensors").stat().st_mtime_ns

    run("quantize", "pretrain", of=other_search)

    assert (recipe.packed_dir / "sat" / "adapter_model.safetensors").stat().st_mtime_ns == before
    config.write_text(config.read_text().replace("epochs: 2", "epochs: 3"))
    run("pretrain", of=dataclasses.replace(recipe, pqm_config=config))
    assert "made with other settings (train)" in caplog.text


def test_an_adapter_that_changes_nothing_stops_the_decode(recipe, run):
    from safetensors.torch import load_file, save_file

    run("data", "base", "quantize", "pretrain", "adapt")
    weights = recipe.packed_dir / "speakers" / "10" / "adapter_model.safetensors"
    tensors = load_file(weights)
    save_file({name: value * 0 for name, value in tensors.items()}, weights)

    with pytest.raises(PqmError, match="does not change the output"):
        run("decode", of=dataclasses.replace(recipe, systems=("nf4+speaker",)))


def test_a_stage_whose_input_is_missing_names_the_stage_to_run(recipe, run):
    for name, stage in (("quantize", "stage 2"), ("base", "stage 1"), ("pretrain", "stage 1")):
        with pytest.raises(PqmError, match=stage):
            run(name)
    run("data", "base")
    with pytest.raises(PqmError, match="stage 3"):
        run("pretrain")
    run("quantize")
    with pytest.raises(PqmError, match="stage 4"):
        run("adapt")
    with pytest.raises(PqmError, match="stage [45]"):
        run("decode", of=dataclasses.replace(recipe, systems=("nf4+sat",)))
    with pytest.raises(PqmError, match="stage 6"):
        run("score")
    with pytest.raises(PqmError, match="stage 7"):
        run("report")


def test_an_unknown_speaker_and_an_unknown_system_are_named(recipe, run):
    run("data", "base", "quantize")

    with pytest.raises(PqmError, match="--speakers 11: not among the target speakers"):
        run("adapt", of=dataclasses.replace(recipe, speakers=("11",)))
    with pytest.raises(PqmError, match=r"system 'nf3' is not known"):
        run("decode", of=dataclasses.replace(recipe, systems=("nf3",)))


def test_words_found_by_weights_that_are_gone_are_not_scored(recipe, run):
    few = dataclasses.replace(recipe, systems=("full", "nf4"))
    run("data", "base", "quantize", "decode", "score", of=few)
    packed = recipe.packed_dir / "model.safetensors"
    packed.write_bytes(packed.read_bytes() + b" ")

    with pytest.raises(PqmError, match=r"decoded with another .*model\.safetensors: run stage 6"):
        run("score", of=few)


def test_a_second_decoding_setting_has_results_of_its_own(recipe, run, tmp_path):
    few = dataclasses.replace(recipe, systems=("full", "nf4"))
    run("data", "base", "quantize", "decode", "score", of=few)
    setting = tmp_path / "wide.yaml"
    setting.write_text("beam_size: 3\n")
    second = dataclasses.replace(few, tag="wide", inference_config=setting)

    run("decode", "score", "report", of=second)

    assert read_json(recipe.packed_dir / "results.json")["meta"]["search"]["beam_size"] == 2
    assert read_json(recipe.packed_dir / "results_wide.json")["meta"]["search"]["beam_size"] == 3
    page = (recipe.packed_dir / "RESULTS.md").read_text()
    assert "beam 2\n" in page
    assert "beam 3\n" in page


def test_the_letter_case_of_texts_is_chosen_by_option_and_told(recipe, run):
    recipe.pqm_config.write_text(recipe.pqm_config.read_text() + "text_case: lower\n")
    few = dataclasses.replace(recipe, systems=("full",))

    run("data", "base", "quantize", "decode", "score", of=few)

    assert read_json(few.packed_dir / "results.json")["meta"]["text_case"] == "lower"
    references = (few.decode_dir("full", "dev") / "ref.trn").read_text().splitlines()
    words = [line.partition("\t")[0] for line in references]
    assert words and all(said.islower() for said in words)


def test_long_audio_is_searched_in_pieces_and_no_word_of_them_is_lost(recipe, run, tmp_path):
    few = dataclasses.replace(recipe, systems=("full",), corpus=write_tiny_corpus(tmp_path / "corpus"))
    samples = np.random.default_rng(0).normal(size=5 * 16000) * 0.1
    soundfile.write(few.corpus / "dev/20/1/20-1-0005.flac", samples, 16000)

    run("data", "base", "quantize", "decode", of=few)

    recognizer = open_base(few, "full").recognizer
    [utterance] = [found for found in Material(few).utterances("test") if found.utterance == "20-1-0005"]
    pieces = recognizer.pieces(load_audio(utterance, 16000))
    said = [recognizer.recognize([piece])[0].text for piece in pieces]
    lines = (few.decode_dir("full", "dev") / "text").read_text().splitlines()
    assert " ".join(["20-1-0005", *filter(None, said)]).rstrip() in lines
    assert sum(len(piece) for piece in pieces) == 5 * 16000


def test_who_uses_the_model_searches_as_the_recipe_does_and_not_by_its_second_setting(recipe, run, tmp_path):
    setting = tmp_path / "wide.yaml"
    setting.write_text("beam_size: 3\n")

    run("data", "base", "quantize", of=dataclasses.replace(recipe, tag="wide", inference_config=setting))

    assert search_options(ModelFolder.of(recipe.packed_dir).about()) == recipe.config.decode


def asked(part: Path) -> dict[str, object]:
    """The request that a speaker's part of a decode answers."""
    found: dict[str, object] = json.loads(part.read_text().split("\n")[0])["request"]
    return found


def test_words_of_ones_own_have_results_of_their_own_and_stand_in_the_request_only_where_there_are_some(
    recipe, run, tmp_path
):
    few = dataclasses.replace(recipe, systems=("full", "nf4"))
    run("data", "base", "quantize", "decode", "score", of=few)
    parts = sorted((recipe.decode_dir("nf4", "dev") / "parts").glob("*.jsonl"))
    speakers = [path.stem for path in parts]
    lists = tmp_path / "lists"
    lists.mkdir()
    told = dataclasses.replace(few, tag="words", words=lists)
    with pytest.raises(
        PqmError, match=rf"--words .*lists has no list of a target speaker: name one {speakers[0]}\.txt"
    ):
        run("decode", of=told)
    (lists / f"{speakers[0]}.txt").write_text("zqx\t10\n")

    run("decode", "score", of=told)

    assert not any("words_sha256" in asked(path) for path in parts)
    told_parts = [few.packed_dir / "decode_nf4" / "dev_words" / "parts" / path.name for path in parts]
    requests = [asked(path) for path in told_parts]
    digest = read_words(lists / f"{speakers[0]}.txt").digest
    assert [request.get("words_sha256") for request in requests] == [digest, *[None] * (len(parts) - 1)]
    run_json = read_json(few.packed_dir / "decode_nf4" / "dev_words" / "run.json")
    assert run_json["words_sha256"] == {speakers[0]: digest}
    before, after = (Part.read(path, asked(path), []).lines for path in (parts[0], told_parts[0]))
    assert any("ZQX" in line.text.upper() for line in after)
    assert not any("ZQX" in line.text.upper() for line in before)
    if recipe.base.endswith("whisper"):
        # Its tokens are of bytes and write anything.
        return
    (lists / f"{speakers[0]}.txt").write_text("R2D2\n")
    with pytest.raises(PqmError, match=r"the model cannot write '2' of 'R2D2'"):
        run("decode", of=told)
