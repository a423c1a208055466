"""Training promises: the base stays as it was, the best epoch is kept, and a kill changes nothing."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from pqm_plugin.adapters.batches import Batches, Example, Memory, batches_by_length
from pqm_plugin.adapters.lora import attach, freeze
from pqm_plugin.adapters.options import TrainOptions
from pqm_plugin.adapters.train import set_training_mode, train_adapter
from pqm_plugin.errors import PqmError

OPTIONS = TrainOptions(epochs=4, learning_rate=0.05, batch_frames=12)
ALL_ON = replace(OPTIONS, spec_augment=True, lora_plus=4.0, schedule="linear")


@dataclass
class Cost:
    total: torch.Tensor
    n_utterances: int
    n_correct: int
    n_tokens: int


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.drop(self.norm(torch.tanh(self.inner(x)))))


def setup(seed=0):
    torch.manual_seed(seed)
    net = Net().eval()
    model = attach(net, ["inner", "head"], rank=2, alpha=4, dropout=0.3)

    def loss(features, tokens):
        rows = [net(x.mean(dim=0, keepdim=True)) for x in features]
        total = sum(nn.functional.cross_entropy(row, y) for row, y in zip(rows, tokens, strict=True))
        right = sum(int(row.argmax() == y[0]) for row, y in zip(rows, tokens, strict=True))
        return Cost(total, len(rows), right, len(rows))

    generator = torch.Generator().manual_seed(1)
    examples = [
        Example(torch.randn(2 + i % 4, 8, generator=generator) + 2 * (i % 3), torch.tensor([i % 3])) for i in range(12)
    ]
    return model, loss, examples


def weights(model):
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


def test_the_adapter_learns_and_the_base_with_its_statistics_does_not_move(tmp_path):
    model, loss, examples = setup()
    frozen = {n: v.clone() for n, v in model.state_dict().items() if "lora_" not in n}

    result = train_adapter(model, loss, examples[:8], examples[8:], OPTIONS, 0, tmp_path / "c", "x")

    assert result.log[result.best_epoch].dev_loss < result.log[0].dev_loss
    assert all(torch.equal(v, frozen[n]) for n, v in model.state_dict().items() if n in frozen)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(tmp_path):
    outcomes = []
    for run, seed in enumerate((3, 3, 4)):
        model, loss, examples = setup()
        train_adapter(model, loss, examples[:8], examples[8:], OPTIONS, seed, tmp_path / str(run), "x")
        outcomes.append(weights(model))

    assert all(torch.equal(outcomes[0][n], outcomes[1][n]) for n in outcomes[0])
    assert any(not torch.equal(outcomes[0][n], outcomes[2][n]) for n in outcomes[0])


@pytest.mark.parametrize("stop_after", [1, 5, 9])
@pytest.mark.parametrize("options", [OPTIONS, ALL_ON], ids=["plain", "all"])
def test_going_on_after_an_interruption_gives_the_bits_of_an_uninterrupted_run(tmp_path, stop_after, options):
    model, loss, examples = setup()
    whole = train_adapter(model, loss, examples[:8], examples[8:], options, 0, tmp_path / "whole", "x")
    expected = weights(model)
    calls = 0

    def failing(features, tokens):
        nonlocal calls
        calls += 1
        if calls > stop_after:
            raise KeyboardInterrupt
        return loss(features, tokens)

    model, loss, examples = setup()
    with pytest.raises(KeyboardInterrupt):
        train_adapter(model, failing, examples[:8], examples[8:], options, 0, tmp_path / "cut", "x")
    model, loss, examples = setup()
    resumed = train_adapter(model, loss, examples[:8], examples[8:], options, 0, tmp_path / "cut", "x")

    assert resumed == whole
    assert all(torch.equal(weights(model)[n], expected[n]) for n in expected)
    assert (tmp_path / "cut").exists()


def test_up_projections_learn_faster_by_the_factor_of_lora_plus(tmp_path):
    def moved(factor):
        model, loss, examples = setup()
        before = weights(model)
        options = replace(OPTIONS, epochs=1, batch_frames=10**6, learning_rate=1e-4, clip_norm=1e9, lora_plus=factor)
        train_adapter(model, loss, examples[:8], examples[8:], options, 0, tmp_path / str(factor), "x")
        return {name: float((value - before[name]).abs().max()) for name, value in weights(model).items()}

    plain, faster = moved(1.0), moved(8.0)

    assert all(faster[n] == pytest.approx(8 * plain[n], rel=1e-3) for n in plain if ".lora_B." in n)
    assert all(faster[n] == plain[n] for n in plain if ".lora_A." in n)


def test_a_linear_schedule_falls_evenly_to_nothing_over_all_batches(tmp_path):
    options = replace(OPTIONS, learning_rate=0.8, schedule="linear")
    rates = [options.rate(epoch, share) for epoch in (1, 2, 3, 4) for share in (0, 0.5)]
    model, loss, examples = setup()

    result = train_adapter(model, loss, examples[:8], examples[8:], options, 0, tmp_path / "c", "x")

    assert rates == pytest.approx([0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    assert [epoch.learning_rate for epoch in result.log[1:]] == pytest.approx([0.8, 0.6, 0.4, 0.2])


def test_steps_of_a_linear_schedule_become_smaller_within_an_epoch(tmp_path):
    def moved(schedule):
        model, loss, examples = setup()
        before = weights(model)
        options = replace(OPTIONS, epochs=1, learning_rate=1e-4, decay=1.0, schedule=schedule)
        train_adapter(model, loss, examples[:8], examples[8:], options, 0, tmp_path / schedule, "x")
        return sum(float((value - before[name]).abs().sum()) for name, value in weights(model).items())

    assert 0.3 * moved("epochs") < moved("linear") < 0.9 * moved("epochs")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"schedule": "cosine"}, "'epochs' or 'linear'"),
        ({"criterion": "wer"}, "'accuracy' or 'loss'"),
        ({"lora_plus": 0}, "above 0"),
    ],
)
def test_options_that_mean_nothing_are_named(wrong, says):
    with pytest.raises(ValueError, match=says):
        TrainOptions(**wrong)


def test_whoever_watches_is_told_of_every_batch_and_a_run_that_it_ends_goes_on_later(tmp_path):
    model, loss, examples = setup()
    expected = train_adapter(model, loss, examples[:8], examples[8:], OPTIONS, 0, tmp_path / "whole", "x")
    told = []

    def watch(done, total):
        told.append((done, total))
        if done == 1 and len(told) == 2:
            raise InterruptedError

    model, loss, examples = setup()
    with pytest.raises(InterruptedError):
        train_adapter(model, loss, examples[:8], examples[8:], OPTIONS, 0, tmp_path / "cut", "x", watch=watch)
    model, loss, examples = setup()
    resumed = train_adapter(model, loss, examples[:8], examples[8:], OPTIONS, 0, tmp_path / "cut", "x", watch=watch)

    steps = told[0][1]
    assert told == [(0, steps), (1, steps), *((done, steps) for done in range(steps + 1))]
    assert steps > OPTIONS.epochs
    assert resumed == expected


def test_the_kept_weights_are_those_of_the_best_epoch(tmp_path):
    model, loss, examples = setup()
    options = replace(OPTIONS, epochs=6, criterion="loss")

    result = train_adapter(model, loss, examples[:8], examples[8:], options, 0, tmp_path / "c", "x")

    with torch.no_grad():
        dev = sum(float(loss([e.features], [e.tokens]).total) for e in examples[8:]) / 4
    assert dev == pytest.approx(min(row.dev_loss for row in result.log), abs=1e-5)


def test_training_stops_when_dev_no_longer_improves(tmp_path):
    model, loss, examples = setup()
    options = replace(OPTIONS, epochs=50, learning_rate=0.0, patience=2)

    result = train_adapter(model, loss, examples[:8], examples[8:], options, 0, tmp_path / "c", "x")

    assert len(result.log) == 3
    assert result.best_epoch == 0


def test_adapter_dropout_is_on_in_training_and_the_bases_own_only_when_asked():
    model, _, _ = setup()

    set_training_mode(model, network_dropout=False)
    modes = {name: module.training for name, module in model.named_modules()}

    assert [n for n, on in modes.items() if on] == [n for n in modes if n.endswith("lora_dropout.default")]
    set_training_mode(model, network_dropout=True)
    assert model.base_model.model.drop.training
    assert not model.base_model.model.norm.training


def test_layers_whose_adapters_are_frozen_have_no_dropout_and_are_not_trained(tmp_path):
    model, loss, examples = setup()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}

    freeze(model, ["inner"])
    set_training_mode(model, network_dropout=False)
    on = [name for name, module in model.named_modules() if module.training]
    train_adapter(model, loss, examples[:8], examples[8:], OPTIONS, 0, tmp_path / "c", "x")

    assert on == ["base_model.model.head.lora_dropout.default"]
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {f"base_model.model.head.lora_{x}.default.weight" for x in "AB"}


def test_batches_beyond_the_memory_are_computed_from_their_features_every_time():
    examples = [Example(torch.zeros(n, 1), torch.zeros(1)) for n in (9, 8, 7)]
    calls = []

    class Prepared:
        size_bytes = 4

        def __init__(self, features, tokens):
            calls.append(f"prepare {len(features[0])}")
            self.length = len(features[0])

        def __call__(self):
            return f"prepared {self.length}"

    batches = Batches(examples, 9, lambda features, tokens: f"plain {len(features[0])}", Prepared, Memory(8))
    first, again = ([batches.loss(index) for index in range(3)] for _ in range(2))

    assert first == ["prepared 7", "prepared 8", "prepared 9"]
    assert again == ["prepared 7", "prepared 8", "plain 9"]
    assert calls == ["prepare 7", "prepare 8", "prepare 9"]


def test_batches_hold_similar_lengths_within_the_bound_and_every_utterance_once():
    examples = [Example(torch.zeros(n, 1), torch.zeros(1)) for n in (5, 1, 4, 20, 2)]

    batches = batches_by_length(examples, batch_frames=10)

    assert batches == [[1, 4], [2, 0], [3]]


def test_an_empty_split_and_a_loss_that_explodes_are_named(tmp_path):
    model, loss, examples = setup()

    with pytest.raises(PqmError, match="ada: 0 training and 12 dev utterances"):
        train_adapter(model, loss, [], examples, OPTIONS, 0, tmp_path / "c", "ada")
    with pytest.raises(ValueError, match="top_layers -1"):
        TrainOptions(top_layers=-1)
    with pytest.raises(PqmError, match="no longer finite"):
        broken = lambda f, t: replace(loss(f, t), total=loss(f, t).total * float("nan"))  # noqa: E731
        train_adapter(model, broken, examples, examples, OPTIONS, 0, tmp_path / "c", "ada")
