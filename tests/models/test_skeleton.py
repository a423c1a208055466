"""A skeleton draws no random number and has everything that is not in a weights file."""

import pytest
import torch

from pqm_plugin.models.families import family_of
from pqm_plugin.models.networks import WithoutInitialisation
from pqm_plugin.models.options import SearchOptions


@pytest.mark.parametrize("name", ["tiny_conformer", "tiny_whisper"])
def test_a_skeleton_is_built_without_random_numbers_and_computes_like_the_float_model_once_loaded(name, request):
    folder = request.getfixturevalue(name)
    family = family_of(folder)
    full = family.load_float(folder, SearchOptions(), "cpu")
    full.network.eval()
    torch.manual_seed(0)
    before = torch.get_rng_state()

    skeleton = family.load_skeleton(folder, SearchOptions(), "cpu")
    drawn = not torch.equal(torch.get_rng_state(), before)
    state = {name: value for name, value in full.network.state_dict().items() if name not in full.built_in}
    missing = skeleton.network.load_state_dict(state, strict=False).missing_keys
    skeleton.network.eval()

    assert not drawn
    assert set(missing) == full.built_in
    features, tokens = [full.features(torch.randn(12000).numpy() / 10)], [full.token_ids("A CAT")]
    assert torch.equal(skeleton.loss(features, tokens).total, full.loss(features, tokens).total)


def test_what_is_not_random_is_still_filled_in():
    with WithoutInitialisation():
        norm, tensor = torch.nn.LayerNorm(3), torch.nn.init.constant_(torch.empty(2), 7)

    assert norm.weight.tolist() == [1, 1, 1]
    assert tensor.tolist() == [7, 7]
