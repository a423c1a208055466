"""ESPnet's own LoRA: what it trains by default, and that our way leaves the base as it was."""

import numpy as np
import pytest
import torch

from pqm_plugin.adapters.train import set_training_mode
from pqm_plugin.errors import PqmError
from pqm_plugin.models.families import family_of
from pqm_plugin.models.options import SearchOptions


@pytest.fixture
def recognizer(tiny_conformer):
    return family_of(tiny_conformer).load_float(tiny_conformer, SearchOptions(), "cpu")


@pytest.fixture
def batch(recognizer):
    audio = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    return [recognizer.features(audio)], [recognizer.token_ids("GO ON")]


def test_espnet_alone_would_train_all_and_here_only_the_factors_learn(recognizer):
    n_base = sum(parameter.numel() for parameter in recognizer.network.parameters())
    targets = recognizer.adapter_targets("qv")

    by_default = recognizer.attach_toolkit_lora(targets, 2, 4.0, 0.1)

    learning = {name: value for name, value in recognizer.network.named_parameters() if value.requires_grad}
    # 24 in and 24 out, rank 2, two factors a layer.
    assert sum(value.numel() for value in learning.values()) == len(targets) * 2 * 2 * 24
    assert by_default == n_base + len(targets) * 2 * 2 * 24
    assert {name.rpartition(".lora_")[0] for name in learning} == set(targets)


def test_a_fresh_one_changes_nothing_a_trained_one_does_and_the_base_stays(recognizer, batch):
    features, tokens = batch
    before = {name: tensor.clone() for name, tensor in recognizer.network.state_dict().items()}
    with torch.no_grad():
        loss = recognizer.loss(features, tokens).total
    recognizer.attach_toolkit_lora(recognizer.adapter_targets("attention"), 2, 4.0, 0.1)
    with torch.no_grad():
        fresh = recognizer.loss(features, tokens).total

    learning = [value for value in recognizer.network.parameters() if value.requires_grad]
    optimizer = torch.optim.Adam(learning, lr=0.01)
    for _ in range(3):
        set_training_mode(recognizer.network, network_dropout=False)
        optimizer.zero_grad()
        recognizer.loss(features, tokens).total.backward()
        optimizer.step()
        recognizer.network.eval()
    with torch.no_grad():
        trained = recognizer.loss(features, tokens).total

    assert torch.equal(fresh, loss)
    assert trained < fresh
    after = recognizer.network.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_it_computes_what_our_lora_computes_with_the_same_factors(tiny_conformer, batch):
    from pqm_plugin.adapters.lora import attach

    features, tokens = batch
    theirs, ours = (family_of(tiny_conformer).load_float(tiny_conformer, SearchOptions(), "cpu") for _ in range(2))
    targets = ours.adapter_targets("attention")
    theirs.attach_toolkit_lora(targets, 2, 8.0, 0.0)
    attach(ours.network, targets, 2, 8.0, 0.0)
    with torch.no_grad():
        for number, name in enumerate(targets):
            torch.manual_seed(number)
            up, down = torch.randn(24, 2) / 10, torch.randn(2, 24) / 10
            theirs.network.get_submodule(name).lora_A.copy_(down)
            theirs.network.get_submodule(name).lora_B.copy_(up)
            ours.network.get_submodule(name).lora_A["default"].weight.copy_(down)
            ours.network.get_submodule(name).lora_B["default"].weight.copy_(up)

        losses = [recognizer.loss(features, tokens).total for recognizer in (theirs, ours)]

    torch.testing.assert_close(losses[0], losses[1])


def test_settings_that_espnet_does_not_take_are_named(recognizer):
    targets = recognizer.adapter_targets("qv")

    with pytest.raises(PqmError, match=r"lora\.alpha 2\.5: ESPnet's LoRA takes only whole numbers"):
        recognizer.attach_toolkit_lora(targets, 2, 2.5, 0.0)
    with pytest.raises(PqmError, match=r"lora\.targets: .* not found"):
        recognizer.attach_toolkit_lora(["encoder.nothing"], 2, 2.0, 0.0)
    with pytest.raises(PqmError, match=r"on \d+ layers, 1 were asked for"):
        recognizer.attach_toolkit_lora(["linear_q"], 2, 2.0, 0.0)


def test_whisper_says_that_there_is_none(tiny_whisper):
    family = family_of(tiny_whisper)

    with pytest.raises(PqmError, match="no LoRA of its own"):
        family.load_skeleton(tiny_whisper, SearchOptions(), "cpu").attach_toolkit_lora([], 1, 1.0, 0.0)

    assert family.TOOLKIT_LORA == ""
