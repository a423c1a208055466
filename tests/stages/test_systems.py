"""Keys of the systems table, and whose adapter each decodes with."""

from pathlib import Path

import pytest

from pqm_plugin.errors import PqmError
from pqm_plugin.stages.common.systems import (
    AdapterSet,
    System,
    adapted_bases,
    adapter_of,
    all_adapter_sets,
    packed_kinds,
    parse_system,
    possible_adapters,
    systems,
)
from pqm_plugin.stages.recipe import Recipe

STOCK = {"espnet": "stock", "int8": "stock int8"}
RECIPE = Recipe(base="b", expdir=Path("exp"))
UNKNOWN = [
    *("nf3", "nf4+", "nf4+me", "espnet+sat", "", "nf4+sat2", "nf4+other0", "nf4+speaker2"),
    *("nf4+copy", "nf4+espnet-lora", "full+copy2", "full+espnet-lora2", "full+copies"),
]


def test_a_key_is_base_plus_adapter():
    assert parse_system("nf4+speaker", STOCK) == System("nf4+speaker", "nf4", "speaker")
    assert parse_system("full", STOCK) == System("full", "full", "")
    assert parse_system("int8", STOCK) == System("int8", "stock", "")


@pytest.mark.parametrize("key", UNKNOWN)
def test_an_unknown_key_is_named(key):
    with pytest.raises(PqmError, match="is not known"):
        parse_system(key, STOCK)


def test_the_default_systems_are_the_seven_of_the_table():
    keys = [system.key for system in systems(RECIPE, STOCK)]

    assert keys == ["espnet", "full", "int8", "nf4", "nf4+sat", "nf4+speaker", "nf4+other"]
    assert adapted_bases(RECIPE) == ["nf4"]


def test_a_calibrated_recipe_compares_with_the_model_rounded_to_nearest_levels(tmp_path):
    config = tmp_path / "pqm.yaml"
    config.write_text("quantize: {calibrate: 8}\n")
    calibrated = Recipe(base="b", pqm_config=config)

    assert [system.key for system in systems(calibrated, STOCK)][2:5] == ["int8", "nf4-rtn", "nf4"]
    assert packed_kinds(calibrated) == ["nf4", "nf4-rtn"]
    assert packed_kinds(RECIPE) == ["nf4"]
    assert packed_kinds(Recipe(base="b", pqm_config=config, systems=("full", "nf4"))) == ["nf4"]
    assert packed_kinds(Recipe(base="b", systems=("nf4-rtn+sat",))) == ["nf4", "nf4-rtn"]


def test_systems_that_one_person_without_teachers_cannot_have_are_left_out():
    keys = [system.key for system in systems(RECIPE, STOCK, possible_adapters(has_sat=False, n_targets=1))]

    assert keys == ["espnet", "full", "int8", "nf4", "nf4+speaker"]
    assert possible_adapters(has_sat=True, n_targets=2) == ["sat", "speaker", "other"]


def test_adapters_of_the_full_base_are_trained_only_when_asked_for():
    recipe = Recipe(base="b", systems=("nf4", "full+sat", "nf4+speaker"))

    assert adapted_bases(recipe) == ["full", "nf4"]


def test_the_other_speaker_is_the_next_one_and_never_oneself():
    speakers = ["a", "b", "c"]
    other = parse_system("nf4+other", STOCK)

    chosen = [adapter_of(RECIPE, other, speaker, speakers) for speaker in speakers]

    assert [path.name for path in chosen] == ["b", "c", "a"]
    with pytest.raises(PqmError, match="at least two target speakers"):
        adapter_of(RECIPE, other, "a", ["a"])


def test_a_numbered_other_is_so_many_places_on_so_that_all_of_them_make_a_latin_square():
    speakers = ["a", "b", "c", "d"]
    others = [parse_system(f"nf4+other{number}", STOCK) for number in (1, 2, 3)]

    square = [[adapter_of(RECIPE, other, speaker, speakers).name for speaker in speakers] for other in others]

    for row, column in zip(square, zip(*square, strict=True), strict=False):
        assert sorted(row) == speakers
        assert len(set(column)) == 3
    assert all(square[i][j] != speakers[j] for i in range(3) for j in range(4))
    with pytest.raises(PqmError, match="more than 4 target speakers"):
        adapter_of(RECIPE, parse_system("nf4+other4", STOCK), "a", speakers)


def test_adapters_without_transcripts_have_a_folder_a_round_and_later_rounds_need_the_first():
    recipe = Recipe(base="b", expdir=Path("exp"), systems=("nf4+speaker-unsup2", "nf4+other3", "full+sat"))

    adapter_set = all_adapter_sets(recipe)

    assert adapter_set == [AdapterSet("nf4", 0), AdapterSet("nf4", 1), AdapterSet("nf4", 2)]
    assert [one.root(recipe).name for one in adapter_set] == ["speakers", "speakers-unsup", "speakers-unsup2"]


def test_controls_of_the_full_base_have_folders_of_their_own_beside_its_adapters():
    recipe = Recipe(base="b", expdir=Path("exp"), systems=("nf4+speaker", "full+espnet-lora", "full+copy"))
    copy = parse_system("full+copy", STOCK)

    adapter_set = all_adapter_sets(recipe)

    assert adapter_set == [
        AdapterSet("nf4"),
        AdapterSet("full", control="copy"),
        AdapterSet("full", control="espnet-lora"),
    ]
    assert adapter_of(recipe, copy, "a", ["a", "b"]) == Path("exp/b_full/copies/a")
    assert adapter_set[2].root(recipe) == Path("exp/b_full/espnet-lora")
    assert [one.from_sat for one in adapter_set] == [True, True, False]


def test_sat_of_the_full_base_is_made_for_copies_which_start_from_it_and_not_for_espnets_lora():
    assert adapted_bases(Recipe(base="b", systems=("nf4+sat", "full+espnet-lora"))) == ["nf4"]
    assert adapted_bases(Recipe(base="b", systems=("nf4+sat", "full+copy"))) == ["full", "nf4"]
