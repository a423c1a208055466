"""Speakers who learn in the same batches: each has what it would have alone, up to the order of sums."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from pqm_plugin.adapters.batches import Example
from pqm_plugin.adapters.lora import attach, freeze
from pqm_plugin.adapters.options import TrainOptions
from pqm_plugin.adapters.train import Member, train_adapter, train_together
from pqm_plugin.errors import PqmError
from pqm_plugin.models.replay import losses_by_group, training_loss

OPTIONS = TrainOptions(epochs=2, learning_rate=0.01, batch_frames=250, criterion="loss")
EVERYTHING = replace(
    OPTIONS, schedule="linear", lora_plus=4.0, spec_augment=True, network_dropout=True, criterion="accuracy"
)
CLOSE = 1e-9
"""How far weights, of about 0.3, may be from those of training alone after two epochs in float64.

In float32 they are up to 1e-4 apart, which depends on the processor: Adam goes as far along a gradient that is all
rounding as along any other.
"""
WORDS = ["GO ON", "NO", "A CAT", "STOP NOW", "WHO IS IT"]


class Room:
    """A recogniser with an adapter, both factors at work, and its trainings from there."""

    def __init__(self, recognizer, dropout=0.0, preset="attention"):
        self.recognizer = recognizer
        torch.manual_seed(0)
        self.model = attach(recognizer.network, recognizer.adapter_targets(preset), 2, 4, dropout)
        with torch.no_grad():
            for name, value in self.model.named_parameters():
                if "lora_B" in name:
                    value.normal_(std=0.1)
        self.start = self.weights()

    def weights(self):
        return {name: v.detach().clone() for name, v in self.model.named_parameters() if "lora_" in name}

    def reset(self):
        self.model.load_state_dict(self.start, strict=False)

    def alone(self, member, options, checkpoint):
        self.reset()
        loss = partial(training_loss, self.recognizer)
        result = train_adapter(self.model, loss, member.train, member.dev, options, 0, checkpoint, member.label)
        return result, self.weights()

    def together(self, members, options, checkpoint, stop_after=None):
        self.reset()
        by_group, calls = losses_by_group(self.recognizer), 0

        def losses(*batch):
            nonlocal calls
            calls += 1
            if calls == stop_after:
                raise KeyboardInterrupt
            return by_group(*batch)

        results = train_together(self.model, losses, members, options, 0, checkpoint, "all")
        return [(result, self.weights()) for result in results]


def member(recognizer, seed, n_train, n_dev, shortest=6000):
    """A speaker of noise, whose utterances are of different lengths."""
    noise = np.random.default_rng(seed)
    clips = [noise.normal(0, 0.1, shortest + 1500 * (i % 5)).astype(np.float32) for i in range(n_train + n_dev)]
    found = [
        Example(recognizer.features(clip), recognizer.token_ids(WORDS[(i + seed) % 5])) for i, clip in enumerate(clips)
    ]
    return Member(f"speaker {seed}", found[:n_train], found[n_train:])


def three(recognizer):
    """Of two batches, of one, and of three."""
    return [member(recognizer, 1, 5, 2), member(recognizer, 2, 1, 4, 9000), member(recognizer, 3, 6, 1, 12000)]


def in_float64(recognizer, members):
    """The speakers for the same model in float64, where another order of sums leaves nearly no trace."""
    recognizer.network.double()
    return [
        replace(
            who,
            train=[replace(each, features=each.features.double()) for each in who.train],
            dev=[replace(each, features=each.features.double()) for each in who.dev],
        )
        for who in members
    ]


def furthest(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def bits(outcomes):
    return [(result, {name: value.tolist() for name, value in weights.items()}) for result, weights in outcomes]


@pytest.mark.parametrize(
    ("n", "options"),
    [(1, OPTIONS), (2, replace(OPTIONS, schedule="linear", lora_plus=4.0)), (3, OPTIONS)],
    ids=["one", "two, linear, lora_plus", "three"],
)
def test_adapters_are_those_of_training_alone(recognizer, tmp_path, n, options):
    members = in_float64(recognizer, three(recognizer)[:n])
    room = Room(recognizer)

    together = room.together(members, options, tmp_path / "all")

    for who, (result, weights) in zip(members, together, strict=True):
        expected, alone = room.alone(who, options, tmp_path / who.label)
        assert furthest(weights, alone) < CLOSE
        assert furthest(weights, room.start) > 0.01
        assert result.best_epoch == expected.best_epoch
        assert [row.learning_rate for row in result.log] == [row.learning_rate for row in expected.log]
        for row, other in zip(result.log, expected.log, strict=True):
            assert (row.train_loss, row.dev_loss) == pytest.approx((other.train_loss, other.dev_loss), rel=CLOSE)
            assert row.dev_accuracy == other.dev_accuracy


def test_layers_below_those_that_learn_keep_their_adapter(recognizer, tmp_path):
    room, members = Room(recognizer, dropout=0.3), three(recognizer)[:2]
    freeze(room.model, recognizer.layer_stack())

    for who, (_, weights) in zip(members, room.together(members, OPTIONS, tmp_path / "all"), strict=True):
        changed = {name for name in weights if not torch.equal(weights[name], room.start[name])}
        assert changed == {name for name, value in room.model.named_parameters() if value.requires_grad}, who.label


def test_what_one_speaker_says_changes_nothing_of_another(recognizer, tmp_path):
    [ada, bob, eve] = in_float64(recognizer, three(recognizer))
    room = Room(recognizer)
    loud = replace(bob, train=[replace(each, features=5 * each.features.roll(3, 0)) for each in bob.train])

    [first, second, _] = room.together([ada, bob, eve], OPTIONS, tmp_path / "one")
    [again, other, _] = room.together([ada, loud, eve], OPTIONS, tmp_path / "two")

    assert furthest(first[1], again[1]) < CLOSE
    assert furthest(second[1], other[1]) > 0.001


@pytest.mark.slow
def test_everyone_has_a_best_epoch_of_its_own_and_stops_by_its_own_patience(recognizer, tmp_path):
    room = Room(recognizer)
    options = replace(OPTIONS, epochs=5, learning_rate=0.1, patience=1)
    members = [member(recognizer, *sizes) for sizes in ((1, 5, 2), (2, 1, 4), (3, 6, 1), (4, 2, 2))]

    together = room.together(members, options, tmp_path / "all")

    alone = [room.alone(who, options, tmp_path / who.label)[0] for who in members]
    found = [(result.best_epoch, len(result.log)) for result, _ in together]
    assert found == [(result.best_epoch, len(result.log)) for result in alone]
    assert len(set(found)) > 1


@pytest.mark.parametrize("stop_after", [1, 4, 7])
@pytest.mark.parametrize("options", [OPTIONS, EVERYTHING], ids=["plain", "everything"])
def test_going_on_after_an_interruption_gives_the_bits_of_an_uninterrupted_run(
    recognizer, tmp_path, stop_after, options
):
    room, members = Room(recognizer, dropout=0.3), three(recognizer)[:2]
    whole = room.together(members, options, tmp_path / "whole")

    with pytest.raises(KeyboardInterrupt):
        room.together(members, options, tmp_path / "cut", stop_after)
    resumed = room.together(members, options, tmp_path / "cut")

    assert bits(resumed) == bits(whole)
    assert bits(room.together(members, options, tmp_path / "cut")) == bits(whole)


def test_with_dropout_the_same_seed_gives_the_same_bits(recognizer, tmp_path):
    room, members = Room(recognizer, dropout=0.3), three(recognizer)

    outcomes = [bits(room.together(members, EVERYTHING, tmp_path / str(run))) for run in range(2)]
    without = bits(Room.together(with_dropout(room, 0.0), members, EVERYTHING, tmp_path / "none"))

    assert outcomes[0] == outcomes[1]
    assert outcomes[0] != without


def with_dropout(room, p):
    for module in room.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = p
    return room


def test_a_speaker_with_nothing_to_learn_from_or_a_loss_that_explodes_is_named(recognizer, tmp_path):
    room, members = Room(recognizer), three(recognizer)[:2]
    broken = replace(members[1], train=[replace(members[1].train[0], features=members[1].train[0].features / 0)])

    with pytest.raises(PqmError, match="speaker 2: 0 training and 4 dev utterances"):
        room.together([members[0], replace(members[1], train=[])], OPTIONS, tmp_path / "a")
    with pytest.raises(PqmError, match="speaker 2: the loss is no longer finite"):
        room.together([members[0], broken], OPTIONS, tmp_path / "b")


def test_whatever_has_no_form_by_row_is_refused_with_the_remedy(recognizer, tmp_path):
    room, members = Room(recognizer), three(recognizer)[:2]
    other = next(value for name, value in room.model.named_parameters() if "lora_" not in name)

    other.requires_grad = True
    with pytest.raises(PqmError, match="is trained, which .* in one batch: use --speakers_per_batch 1"):
        room.together(members, OPTIONS, tmp_path / "all")
