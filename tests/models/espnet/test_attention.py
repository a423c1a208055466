"""Attention over relative positions gives ESPnet's numbers in fewer passes, or is left to ESPnet."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from espnet2.legacy.nets.pytorch_backend.transformer.attention import RelPositionMultiHeadedAttention

from pqm_plugin.models.espnet import layers as espnet_layers
from pqm_plugin.models.espnet.layers import attend, fast_attention, relative_attentions
from pqm_plugin.models.families import family_of
from pqm_plugin.models.options import SearchOptions


@pytest.fixture
def attention():
    torch.manual_seed(0)
    return RelPositionMultiHeadedAttention(2, 12, 0.0).eval()


def inputs(n_rows, n_frames, n_position_rows=1):
    x = torch.randn(n_rows, n_frames, 12)
    positions = torch.randn(n_position_rows, 2 * n_frames - 1, 12)
    lengths = torch.linspace(n_frames, max(1, n_frames // 2), n_rows).long()
    return (x, x, x, positions, (torch.arange(n_frames) < lengths[:, None])[:, None])


@pytest.mark.parametrize(("n_rows", "n_frames", "n_position_rows"), [(1, 1, 1), (1, 6, 1), (3, 6, 1), (3, 6, 3)])
@torch.no_grad()
def test_outputs_are_those_of_espnet(attention, n_rows, n_frames, n_position_rows):
    given = inputs(n_rows, n_frames, n_position_rows)

    found = attend(attention, *given)

    heard = given[-1][:, 0]
    assert torch.allclose(found[heard], attention(*given)[heard], atol=1e-6)


@torch.no_grad()
def test_without_a_mask_all_frames_are_heard(attention):
    *given, mask = inputs(2, 6)

    found = attend(attention, *given, None)

    assert torch.allclose(found, attention(*given, torch.ones_like(mask)), atol=1e-6)


@torch.no_grad()
def test_rows_that_have_positions_of_their_own_are_told_apart(attention):
    query, key, value, positions, mask = inputs(2, 6, 2)

    found = attend(attention, query, key, value, positions, mask)
    swapped = attend(attention, query, key, value, positions.flip(0), mask)

    assert not torch.allclose(found, swapped, atol=1e-3)


@torch.no_grad()
def test_an_attention_is_replaced_within_the_context_and_its_thread_alone(attention):
    given = inputs(2, 6)

    def kept_weights():
        attention.attn = None
        attention(*given)
        return attention.attn is not None

    with ThreadPoolExecutor(1) as other, fast_attention(relative_attentions(attention)):
        within, elsewhere = kept_weights(), other.submit(kept_weights).result()

    assert (within, elsewhere, kept_weights()) == (False, True, True)


@pytest.mark.parametrize("n_position_rows", [1, 3])
def test_gradients_are_those_of_espnet(attention, n_position_rows):
    given = inputs(3, 6, n_position_rows)
    heard = given[-1][:, 0]

    def gradients(forward):
        attention.zero_grad()
        x = given[0].clone().requires_grad_()
        forward(x, x, x, *given[3:])[heard].square().sum().backward()
        return [x.grad, *(value.grad for value in attention.parameters())]

    theirs = gradients(attention)
    with fast_attention(relative_attentions(attention)):
        ours = gradients(attention)

    assert all(torch.allclose(one, other, rtol=1e-4, atol=1e-6) for one, other in zip(ours, theirs, strict=True))
    assert all(one.abs().sum() > 0 for one in theirs)


def test_an_attention_whose_dropout_is_at_work_is_left_to_espnet(attention):
    given = inputs(2, 6)
    attention.dropout.p = 0.5
    attention.dropout.train()

    replaced = relative_attentions(attention)
    torch.manual_seed(1)
    theirs = attention(*given)
    with fast_attention(replaced):
        torch.manual_seed(1)
        ours = attention(*given)

    # The trial was without dropout, and left it as it was.
    assert replaced == [attention]
    assert attention.dropout.training
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("change", ["renamed", "scaled", "causal"])
def test_an_attention_that_computes_something_else_is_left_to_espnet(attention, caplog, monkeypatch, change):
    if change == "renamed":
        del attention.linear_pos
    elif change == "scaled":
        monkeypatch.setattr(type(attention), "rel_shift", lambda self, x: 2 * x[..., : x.shape[2]])
    else:
        attention.zero_triu = True

    assert relative_attentions(attention) == []

    reason = {"renamed": "linear_pos", "scaled": "a trial differs", "causal": "zero_triu"}[change]
    assert reason in caplog.text


def test_a_conformer_is_searched_with_it_and_finds_what_it_found_without(tiny_conformer, monkeypatch):
    search = SearchOptions(beam_size=2, max_length_ratio=0.3, batch_size=2)
    recognizer = family_of(tiny_conformer).load_float(tiny_conformer, search, "cpu")
    recognizer.network.eval()
    noise = np.random.default_rng(0)
    audio = [noise.normal(0, 0.1, n_samples).astype(np.float32) for n_samples in (16000, 12000)]
    calls = []

    def counted(*arguments):
        calls.append(arguments[0])
        return attend(*arguments)

    monkeypatch.setattr(espnet_layers, "attend", counted)
    [first, second] = recognizer.recognize(audio)
    n_calls = len(calls)
    vars(recognizer)["_attentions"] = []
    [first_stock, second_stock] = recognizer.recognize(audio)

    # Once in its trial and once in the search.
    assert n_calls == len(calls) == 2 * len(recognizer.network.encoder.encoders)
    assert (first.text, second.text) == (first_stock.text, second_stock.text)
    assert (first.score, second.score) == pytest.approx((first_stock.score, second_stock.score), abs=1e-4)
