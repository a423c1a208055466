"""Cells of a study are variants that the stages make, and what they share with the recipe is not made twice."""

import dataclasses

import pytest

from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json
from pqm_plugin.stages.study import read_cells, variant_of

STUDY = """
seeds:
  systems: [nf4+speaker]
  cells:
    "1": {seed: 1}
minutes:
  systems: [nf4+speaker]
  cells:
    little: {adapt_minutes: 0.001}
formats:
  systems: [nf4]
  cells:
    fp4: {quantize: {quant_type: fp4}}
"""


@pytest.fixture
def study(recipe, tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return dataclasses.replace(recipe, study=path, systems=("full", "nf4", "nf4+sat", "nf4+speaker", "nf4+other"))


def test_a_cell_changes_what_it_names_and_nothing_else(study):
    cells = {cell.variant: cell for cell in read_cells(study.study)}

    changed = variant_of(study, cells["formats-fp4"]).config

    assert changed.quantize.quant_type == "fp4"
    assert changed == dataclasses.replace(
        study.config, quantize=dataclasses.replace(study.config.quantize, quant_type="fp4")
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "must map option names to values: give sections of a study"),
        ("a: {cells: {b: {}}}", "needs `systems`"),
        ("a: {systems: [nf4], cells: {b: 3}}", "a/b must be keys and values"),
    ],
)
def test_a_file_that_is_no_study_is_named_with_what_it_lacks(tmp_path, text, message):
    path = tmp_path / "study.yaml"
    path.write_text(text)

    with pytest.raises(PqmError, match=message):
        list(read_cells(path))


def test_an_unknown_setting_in_a_cell_is_named_before_anything_runs(study, tmp_path):
    study.study.write_text("a: {systems: [nf4], cells: {b: {quantise: {}}}}")
    [cell] = read_cells(study.study)

    with pytest.raises(PqmError, match="did you mean 'quantize'"):
        variant_of(study, cell)


def test_a_second_decoding_setting_of_a_cell_is_the_recipes_and_what_it_learns_by_stays(study, tmp_path):
    search, settings = (
        tmp_path / "fast.yaml",
        "a: {systems: [nf4+speaker-unsup], cells: {b: {decode: {ctc_weight: 1}}}}",
    )
    search.write_text("beam_size: 1\n")
    study.study.write_text(settings)
    [cell] = read_cells(study.study)

    plain = variant_of(study, cell)
    tagged = variant_of(dataclasses.replace(study, tag="fast", inference_config=search), cell)

    assert tagged.config.decode == dataclasses.replace(study.config.decode, beam_size=1, ctc_weight=1.0)
    assert dataclasses.replace(tagged, tag="", inference_config=None).config == plain.config
    assert plain.config.decode == dataclasses.replace(study.config.decode, ctc_weight=1.0)
    assert tagged.packed_dir == plain.packed_dir


@pytest.mark.slow
def test_the_study_runs_its_cells_reuses_what_is_equal_and_is_shown_by_the_report(study, run, caplog):
    run("data", "base", "quantize", "pretrain", "adapt", "decode", "score", of=study)
    sat = (study.packed_dir / "sat" / "adapter_model.safetensors").read_bytes()

    run("study", of=study)

    record = read_json(study.packed_dir / "study.json")
    assert [(row["section"], row["cell"]) for row in record["cells"]] == [
        ("seeds", "1"),
        ("minutes", "little"),
        ("formats", "fp4"),
    ]
    assert record["cells"][0]["meta"]["seed"] == 1
    assert {row["meta"]["command"] for row in (record["reference"], *record["cells"])} == {"test"}
    own = read_json(study.packed_dir / "results.json")["systems"]
    assert record["reference"]["systems"]["nf4+sat"]["errors"] == own["nf4+sat"]["errors"]
    folders = {name: study.expdir / f"{study.packed_dir.name}-{name}" for name in ("seeds-1", "minutes-little")}
    assert (folders["minutes-little"] / "sat" / "adapter_model.safetensors").read_bytes() == sat
    assert (folders["seeds-1"] / "sat" / "adapter_model.safetensors").read_bytes() != sat
    caplog.clear()
    run("study", "report", of=study)
    assert "0 speakers to adapt, 2 done already" in caplog.text
    assert "2 speakers to adapt" not in caplog.text
    page = (study.packed_dir / "RESULTS.md").read_text()
    assert "### Study: minutes" in page and "minutes.svg" in page
    assert read_json(study.packed_dir / "study.json") == record


@pytest.mark.slow
def test_under_another_decoding_setting_the_same_cells_learn_nothing_anew_and_are_told_in_a_file_apart(
    study, run, caplog, tmp_path
):
    unsupervised = "seeds: {systems: [nf4+sat, nf4+speaker, nf4+speaker-unsup], cells: {'1': {seed: 1}}}"
    study.study.write_text(unsupervised)
    (tmp_path / "fast.yaml").write_text("beam_size: 1\nctc_weight: 1.0\n")
    tagged = dataclasses.replace(study, tag="fast", inference_config=tmp_path / "fast.yaml")
    run("data", "base", "quantize", "study", of=study)
    folder = study.expdir / f"{study.packed_dir.name}-seeds-1"
    learned = {path: path.read_bytes() for path in folder.glob("**/adapter_model.safetensors")}
    first = (study.packed_dir / "study.json").read_bytes()
    caplog.clear()

    run("study", of=tagged)

    assert len(learned) == 5
    assert caplog.text.count("0 speakers to adapt, 2 done already") == 2
    assert "sat is there already" in caplog.text
    assert {path: path.read_bytes() for path in folder.glob("**/adapter_model.safetensors")} == learned
    assert (study.packed_dir / "study.json").read_bytes() == first
    [row] = read_json(study.packed_dir / "study_fast.json")["cells"]
    assert set(row["systems"]) == {"nf4+sat", "nf4+speaker", "nf4+speaker-unsup"}
    for tag, beam_size in (("", 2), ("_fast", 1)):
        assert read_json(folder / f"results{tag}.json")["meta"]["search"]["beam_size"] == beam_size
    caplog.clear()
    run("study", of=study)
    assert caplog.text.count("0 speakers to adapt, 2 done already") == 2
    assert (study.packed_dir / "study.json").read_bytes() == first
