"""Packing and opening are the same whoever asks: a recipe, `pqm quantize`, a benchmark."""

import pytest
import torch

from pqm_plugin.engine.packing import Packing, open_float, open_packed, pack
from pqm_plugin.errors import PqmError
from pqm_plugin.files import sha256
from pqm_plugin.models.families import family_of
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.personal.making import quantize
from pqm_plugin.quantize.modes import PACKED
from pqm_plugin.quantize.packed import WeightFormat

FORMAT = WeightFormat(block_size=32, double_quantize=True)


@pytest.fixture(params=["tiny_conformer", "tiny_whisper"])
def base(request):
    """Return the folder of a tiny float model, one of each family."""
    return request.getfixturevalue(request.param)


def packed(base, out, packing, speech=None):
    out.mkdir()
    family = family_of(base)
    return pack(family, family.load_float(base, SearchOptions(), "cpu"), base, out, packing, "keep:", speech)


def test_a_recipe_and_a_person_get_the_same_bytes(base, tmp_path):
    kinds = set(family_of(base).load_float(base, SearchOptions(), "cpu").layer_kinds().values())
    keep = sorted({"depthwise_conv"} & kinds)

    measured = packed(base, tmp_path / "recipe", Packing(FORMAT, "bfloat16", keep))
    meta = quantize(str(base), tmp_path / "person")

    assert sha256(tmp_path / "recipe" / PACKED) == sha256(tmp_path / "person" / PACKED) == measured["sha256"]
    assert {**meta, "request": None} == {"request": None, **measured}


def test_a_layer_kind_that_the_model_lacks_is_named_with_those_that_it_has(base, tmp_path):
    with pytest.raises(
        PqmError, match=r"keep: attention_of_none: no layer is of this kind; there are .*encoder_attention"
    ):
        packed(base, tmp_path / "out", Packing(FORMAT, "bfloat16", ("attention_of_none",)))


def test_calibration_leaves_the_number_of_threads_as_it_was_and_needs_speech(base, tmp_path):
    before = torch.get_num_threads()

    with pytest.raises(ValueError, match="no utterance to calibrate on"):
        packed(base, tmp_path / "out", Packing(FORMAT, "bfloat16"), lambda recognizer: [])

    assert torch.get_num_threads() == before


def test_what_is_opened_is_in_evaluation_and_packed_weights_are_near_the_float_ones(base, tmp_path):
    packed(base, tmp_path / "out", Packing(FORMAT, "float32"))
    full, small = open_float(base, SearchOptions()), open_packed(tmp_path / "out", SearchOptions(), mode="small")

    assert not full.network.training and not small.network.training
    for name in full.layer_kinds():
        near, exact = small.network.get_submodule(name).weight, full.network.get_submodule(name).weight
        assert 0 < (near - exact).norm() < 0.2 * exact.norm()
