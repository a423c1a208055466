"""Weights in numpy are those of torch, bit for bit."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pqm_plugin.errors import PqmError
from pqm_plugin.quantize.packed import PackedTensor, WeightFormat, nested_levels
from pqm_plugin.runtime import weights
from pqm_plugin.runtime.weights import NotHereError, PackedModel, bytewise


def written(path, shape, weight_format, entry=None, **more):
    """A packed file of one layer, and its weight as torch unpacks it."""
    pack = PackedTensor.pack(torch.randn(shape, generator=torch.Generator().manual_seed(1)), weight_format)
    tensors = {f"layer.weight.{name}": tensor for name, tensor in pack.stored().items()}
    fields = {"shape": list(shape), "block_size": weight_format.block_size, **(entry or {})}
    fields |= {"double_quantize": weight_format.double_quantize}
    header = {
        "format_version": 1,
        "layers": {"layer": fields, "twin": {"same_as": "layer"}},
        "tied": {},
        "built_in": [],
    }
    save_file(tensors | more, path, metadata={"pqm": json.dumps(header)})
    return pack.unpack().numpy()


@pytest.mark.parametrize("shape", [(64, 64), (7, 33), (5, 3, 3), (1, 1)])
@pytest.mark.parametrize("block_size", [32, 64])
@pytest.mark.parametrize("double_quantize", [False, True])
def test_a_weight_is_unpacked_to_the_same_bits(tmp_path, shape, block_size, double_quantize):
    path = tmp_path / "model.safetensors"
    expected = written(path, shape, WeightFormat("nf4", block_size, double_quantize))

    found = PackedModel(path).packed("layer")

    assert np.array_equal(found.unpack(), expected)
    assert np.array_equal(PackedModel(path).packed("twin").unpack(), expected)
    if len(shape) == 2:
        assert np.array_equal(found.rows(np.array([shape[0] - 1, 0])), expected[[-1, 0]])


def test_levels_of_scales_are_those_of_bitsandbytes():
    assert np.array_equal(weights.nested_levels(), nested_levels(torch.device("cpu")).numpy())


def test_blocks_that_end_in_the_middle_of_others_hold_the_same_weights(tmp_path, monkeypatch):
    expected = written(tmp_path / "a", (9, 30), WeightFormat("nf4", 64, True))
    monkeypatch.setattr(weights, "_CHUNK", 60)

    found = PackedModel(tmp_path / "a").packed("layer")

    assert np.array_equal(np.concatenate([rows for _, rows in found.blocks()]), expected)
    assert np.array_equal(found.unpack(), expected)


def test_eight_bits_are_as_near_as_they_can_be(tmp_path):
    expected = written(tmp_path / "a", (40, 64), WeightFormat("nf4", 32, True))

    whole, scales = bytewise([PackedModel(tmp_path / "a").packed("layer"), expected])

    assert whole.shape == (64, 80) and np.array_equal(whole[:, :40], whole[:, 40:])
    assert np.abs(whole.T * scales[:, None] - np.concatenate([expected] * 2)).max() <= scales.max() * 0.501


def test_bfloat16_is_read_without_torch(tmp_path):
    values = torch.tensor([1.5, -2.25, 3e-5, 0.0]).bfloat16()
    written(tmp_path / "a", (4, 4), WeightFormat(), norm=values)

    assert np.array_equal(PackedModel(tmp_path / "a").array("norm", (4,)), values.float().numpy())


def test_what_does_not_fit_is_one_line(tmp_path):
    path = tmp_path / "model.safetensors"
    written(path, (8, 8), WeightFormat(), entry={"shape": [8, 80]}, extra=torch.zeros(1))
    model = PackedModel(path)

    with pytest.raises(PqmError, match="packed weight of layer is missing or unfit"):
        model.packed("layer")
    with pytest.raises(PqmError, match="packed weight of other is missing or unfit"):
        model.packed("other")
    with pytest.raises(PqmError, match="extra has shape"):
        model.array("extra", (2,))
    with pytest.raises(PqmError, match="missing norm"):
        model.array("norm", (2,))
    with pytest.raises(PqmError, match="unknown"):
        PackedModel(path).check_all_used()
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(PqmError, match="is damaged"):
        PackedModel(path)


def test_a_type_that_is_not_known_here_is_left_to_torch(tmp_path):
    written(tmp_path / "a", (8, 8), WeightFormat(), entry={"quant_type": "fp4"})

    with pytest.raises(NotHereError, match="fp4"):
        PackedModel(tmp_path / "a").packed("layer")
