"""What is below the lowest adapter that learns is computed once, and no bit of loss, gradient or adapter differs."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from pqm_plugin.adapters.batches import Example
from pqm_plugin.adapters.lora import attach
from pqm_plugin.adapters.options import TrainOptions
from pqm_plugin.adapters.train import set_training_mode, train_adapter
from pqm_plugin.models.replay import PreparedLoss, fixed_layers, prepare_loss, training_loss

OPTIONS = TrainOptions(epochs=3, learning_rate=0.02, batch_frames=150)


def adapted(recognizer, part, preset="attention"):
    """An adapter, with both factors at work, on the layers of a preset whose name contains `part`."""
    targets = [name for name in recognizer.adapter_targets(preset) if part in name]
    torch.manual_seed(0)
    model = attach(recognizer.network, targets, rank=2, alpha=4, dropout=0.3)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.1)
    return model


def material(recognizer, n=6):
    noise = np.random.default_rng(0)
    clips = [noise.normal(0, 0.1, 6000 + 1500 * i).astype(np.float32) for i in range(n)]
    return [
        Example(recognizer.features(clip), recognizer.token_ids(text))
        for clip, text in zip(clips, ["GO ON", "NO", "A CAT"] * n, strict=False)
    ]


def loss_and_gradients(model, compute):
    set_training_mode(model, network_dropout=False)
    torch.manual_seed(5)
    model.zero_grad()
    total = compute().total
    total.backward()
    return [total.detach(), *(value.grad.clone() for value in model.parameters() if value.requires_grad)]


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_loss_and_gradients_are_bit_for_bit_those_of_the_whole_computation(recognizer, part):
    model = adapted(recognizer, f"{part}.")
    batch = material(recognizer, 2)
    features, tokens = [e.features for e in batch], [e.tokens for e in batch]
    set_training_mode(model, network_dropout=False)
    prepared = prepare_loss(recognizer, features, tokens)

    for _ in range(2):
        whole = loss_and_gradients(model, lambda: training_loss(recognizer, features, tokens))
        ours = loss_and_gradients(model, prepared)

        assert all(torch.equal(a, b) for a, b in zip(whole, ours, strict=True))
        with torch.no_grad():
            for value in model.parameters():
                value.add_(0.05 if value.requires_grad else 0)
    assert prepared.size_bytes > 0


def test_what_an_adapter_learns_by_is_the_loss_of_plain_layers_but_for_the_order_of_sums(recognizer):
    model = adapted(recognizer, "")
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # the faster one draws other elements
    batch = material(recognizer, 3)
    features, tokens = [e.features for e in batch], [e.tokens for e in batch]

    plain = loss_and_gradients(model, lambda: recognizer.loss(features, tokens))
    ours = loss_and_gradients(model, lambda: training_loss(recognizer, features, tokens))

    assert any(value.abs().max() > 0 for value in plain[1:])
    assert all(
        torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(a.abs().max())) for a, b in zip(plain, ours, strict=True)
    )


def test_as_many_layers_are_fixed_as_lie_below_the_lowest_that_learns(recognizer):
    stack = [recognizer.network.get_submodule(name) for name in recognizer.layer_stack()]
    assert fixed_layers(recognizer) == []

    model = adapted(recognizer, "decoder.")
    model.eval()
    assert fixed_layers(recognizer) == stack
    model.unload()
    model = adapted(recognizer, "encoder.")
    model.eval()
    assert fixed_layers(recognizer) == stack[:-1]


def test_nothing_is_fixed_above_dropout_that_is_at_work(recognizer):
    model = adapted(recognizer, "decoder.")
    set_training_mode(model, network_dropout=False)
    assert fixed_layers(recognizer)

    for module in recognizer.network.get_submodule(recognizer.layer_stack()[0]).modules():
        module.train()

    assert fixed_layers(recognizer) == []
    assert prepare_loss(recognizer, [], []).size_bytes == 0


def test_preparing_draws_no_random_number(recognizer):
    adapted(recognizer, "decoder.").eval()
    [example] = material(recognizer, 1)
    before = torch.get_rng_state()

    prepare_loss(recognizer, [example.features], [example.tokens])

    assert torch.equal(torch.get_rng_state(), before)


def test_layers_compute_again_after_an_error_within(recognizer):
    adapted(recognizer, "decoder.").eval()
    [example] = material(recognizer, 1)
    module = fixed_layers(recognizer)[0]

    def failing():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        PreparedLoss(failing, [module], [torch.zeros(1)])()

    assert "forward" not in vars(module)
    assert torch.isfinite(recognizer.loss([example.features], [example.tokens]).total)


def test_an_adapter_that_was_trained_on_prepared_batches_has_the_same_bits(recognizer, tmp_path):
    examples = material(recognizer)
    model = adapted(recognizer, "encoder.")
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    outcomes = []
    loss = partial(training_loss, recognizer)
    for prepare in (None, partial(prepare_loss, recognizer)):
        model.load_state_dict(start, strict=False)
        path = tmp_path / str(prepare is None)
        result = train_adapter(model, loss, examples[:4], examples[4:], OPTIONS, 0, path, "x", prepare)
        weights = [value.detach().clone() for value in model.parameters() if value.requires_grad]
        outcomes.append((result, weights))

    (plain, expected), (prepared, found) = outcomes
    assert prepared == plain
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert any(not torch.equal(value, start[name]) for name, value in model.named_parameters() if value.requires_grad)
