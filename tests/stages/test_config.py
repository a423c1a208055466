"""Configurations: defaults, unknown keys with the nearest name, every shipped file loads."""

from pathlib import Path

import pytest
import yaml

from pqm_plugin.adapters.options import TrainOptions
from pqm_plugin.errors import PqmError
from pqm_plugin.settings import as_dict
from pqm_plugin.stages.config import Config, load_config
from pqm_plugin.stages.study import read_cells

ROOT = Path(__file__).resolve().parents[2]


def written(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return path


def test_no_file_and_an_empty_file_mean_the_defaults(tmp_path):
    assert load_config(None) == Config()
    assert load_config(written(tmp_path, "")) == Config()


def test_a_file_says_what_differs(tmp_path):
    config = load_config(written(tmp_path, "seed: 3\nlora: {rank: 2, targets: [a, b]}\nadapt: {learning_rate: 1e-3}\n"))

    assert (config.seed, config.lora.rank, config.lora.targets) == (3, 2, ("a", "b"))
    assert config.adapt.learning_rate == 0.001
    assert config.pretrain == Config().pretrain


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lora: {rnak: 2}", "lora: unknown name 'rnak'; did you mean 'rank'"),
        ("adpt: {}", "unknown name 'adpt'; did you mean 'adapt'"),
        ("lora: {rank: many}", "lora: rank: 'many' is not a whole number"),
        ("quantize: {double_quantize: 1}", "double_quantize: 1 is not true or false"),
        ("quantize: {calibrate: -1}", "calibrate -1: a number of utterances, or 0"),
        ("seed: true", "seed: True is not a whole number"),
        ("adapt: {criterion: wer}", "criterion 'wer': use 'accuracy' or 'loss'"),
        ("lora: 3", "lora: expected names and values, got 3"),
        ("a: [", "c.yaml is not YAML: .*line 1"),
        ("- 1", "must map option names to values: give the settings of a recipe"),
        ("adapt: {learning_rate: .nan}", "adapt: learning_rate: nan is not a finite number"),
        ("quantize: {keep: embedding}", "quantize: keep: 'embedding' is not a list"),
        ("quantize: {keep: [1]}", "quantize: keep: 1 is not text"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path, text, message):
    with pytest.raises(PqmError, match=message):
        load_config(written(tmp_path, text))


CONFIGURATIONS = sorted(ROOT.glob("egs/*/conf/*.yaml"))


def named(prefix):
    """Configurations whose name begins so, or those of recipes: no training, no second decoding setting."""
    every = {path: path.stem.partition("_")[0] for path in CONFIGURATIONS}
    return [
        path for path, kind in every.items() if (kind if kind in ("train", "decode", "study") else "recipe") == prefix
    ]


def short(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", named("study"), ids=short)
def test_every_cell_of_a_shipped_study_is_a_configuration(path, tmp_path):
    for cell in read_cells(path):
        changed = tmp_path / f"{cell.variant}.yaml"
        changed.write_text(yaml.safe_dump(dict(cell.changes)))

        # An unknown key or a value of the wrong kind is an error.
        assert isinstance(load_config(changed), Config) and cell.systems


def test_what_is_studied_by_the_ctc_layer_are_cells_that_joint_decoding_has_too():
    joint, layer = (list(read_cells(ROOT / f"egs/librispeech/conf/{name}.yaml")) for name in ("study", "study_ctc"))

    assert [cell for cell in joint if cell.section in ("minutes", "seeds")] == layer


def differing(one, other, prefix=""):
    """Dotted names of the settings that differ."""
    for key in one | other:
        pair = one.get(key), other.get(key)
        if all(isinstance(value, dict) for value in pair):
            yield from differing(*pair, f"{prefix}{key}.")
        elif pair[0] != pair[1]:
            yield f"{prefix}{key}"


JOINED = {"pretrain.epochs", "pretrain.joined_s", "pretrain.joined_copies"}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("librispeech/conf/pqm_device.yaml", {"pretrain.joined_copies"}),
        ("tedlium3/conf/pqm.yaml", {*JOINED, "decode.ctc_weight"}),
        ("own/conf/pqm.yaml", {*JOINED, "decode.ctc_weight"}),
    ],
)
def test_a_recipe_differs_from_librispeech_in_what_its_first_lines_say(path, expected):
    own, chosen = (as_dict(load_config(ROOT / "egs" / name)) for name in (path, "librispeech/conf/pqm.yaml"))

    assert set(differing(own, chosen)) == expected
    said = (ROOT / "egs" / path).read_text().partition("\nquantize:")[0]
    assert all(name.rpartition(".")[2] in said for name in expected)


def test_an_option_that_came_later_is_in_a_request_only_where_it_is_used():
    plain, used = as_dict(Config()), as_dict(Config(adapt=TrainOptions(spec_augment=True)))

    assert "spec_augment" not in plain["adapt"] and "epochs" in plain["adapt"]
    assert used["adapt"] == plain["adapt"] | {"spec_augment": True}


@pytest.mark.parametrize("path", named("recipe"), ids=short)
def test_every_shipped_configuration_loads(path):
    assert load_config(path) != Config()


@pytest.mark.parametrize("path", named("decode"), ids=short)
def test_every_shipped_decoding_setting_loads(path):
    assert load_config(None, path).decode != Config().decode
