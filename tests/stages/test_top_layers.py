"""Stage 5 with fewer layers that learn: what is below stays the speaker-independent adapter's."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from pqm_plugin.adapters.files import WEIGHTS, read_info
from pqm_plugin.errors import PqmError

pytestmark = pytest.mark.slow


def with_top_layers(recipe, tmp_path, n):
    config = tmp_path / f"top{n}.yaml"
    config.write_text(recipe.pqm_config.read_text().replace("adapt: {", f"adapt: {{top_layers: {n}, "))
    return dataclasses.replace(recipe, pqm_config=config)


def test_with_one_layer_on_top_all_below_it_stays_as_pre_training_left_it(recipe, run, tmp_path):
    lora = recipe.pqm_config.read_text().replace("rank: 1,", "rank: 1, targets: all_linear, max_fraction: 0.2,")
    recipe.pqm_config.write_text(lora.replace(" max_fraction: 0.05", ""))
    recipe = with_top_layers(recipe, tmp_path, 1)
    run("data", "base", "quantize", "pretrain", "adapt", of=recipe)

    sat, own = (load_file(recipe.packed_dir / name / WEIGHTS) for name in ("sat", "speakers/10"))

    changed = {name.split(".lora_")[0] for name in sat if not torch.equal(sat[name], own[name])}
    encoder = {name for name in changed if "encoder." in name and "decoder." not in name}
    assert encoder
    assert not any(".embed." in name or "conv" in name.split("encoder.")[1][:5] for name in encoder)
    assert changed - encoder
    info = read_info(recipe.packed_dir / "speakers" / "10")
    assert info.parameters == sum(value.numel() for value in own.values())


def test_more_layers_than_there_are_is_an_error_with_their_number(recipe, run, tmp_path):
    recipe = with_top_layers(recipe, tmp_path, 9)
    run("data", "base", "quantize", "pretrain", of=recipe)

    with pytest.raises(PqmError, match=r"top_layers 9: the stack below the decoder has [23] layers"):
        run("adapt", of=recipe)
