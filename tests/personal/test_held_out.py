"""Enrolment says what held-out recordings say, and keeps the better model."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import load_file

import pqm_plugin
from pqm_plugin.adapters.files import read_info
from pqm_plugin.commands.__main__ import main
from pqm_plugin.engine import judging
from pqm_plugin.engine.judging import AFTER, BEFORE, OTHER, compare
from pqm_plugin.errors import PqmError
from pqm_plugin.personal.options import JUDGED, EnrollOptions
from tests.personal.conftest import TEXTS, noise

CLIPS = [noise(seed) for seed in range(JUDGED)]
WORDS = [TEXTS[place % len(TEXTS)] for place in range(JUDGED)]
QUICK = EnrollOptions(epochs=1, folds=2)


def test_errors_are_compared_on_normalised_words_with_an_interval_over_recordings():
    said = [f"Turn number {word} off, please." for word in "one two three four five six seven eight nine ten".split()]
    before = [text.replace("off", "of") for text in said]
    after = [*before[:2], *(text.upper().replace(",", "") for text in said[2:])]

    found = compare(said, {BEFORE: before, AFTER: after, OTHER: before}, "en")

    assert (found.n_recordings, found.before, found.after, found.other) == (10, 10, 2, 10)
    assert found.reduction == pytest.approx(0.8) and found.is_better and found.gain_shown
    assert "10 errors before, 2 after (80 % fewer" in found.sentence()
    same = compare(said, {BEFORE: before, AFTER: before}, "en")
    assert not same.is_better and not same.gain_shown and same.other is None
    assert compare(said, {BEFORE: said, AFTER: before}, "en").reduction is None


@pytest.mark.slow
def test_every_recording_is_decoded_once_by_an_adapter_that_was_not_trained_on_it(folder, monkeypatch):
    trained, decoded = [], []
    real_train, real_words = judging.train_adapter, judging._words

    def train(model, loss, train, dev, *rest, **named):
        trained.append({id(example) for example in (*train, *dev)})
        return real_train(model, loss, train, dev, *rest, **named)

    def words(recognizer, clips):
        decoded.append([clip.name for clip in clips])
        return real_words(recognizer, clips)

    monkeypatch.setattr(judging, "train_adapter", train)
    monkeypatch.setattr(judging, "_words", words)

    done = pqm_plugin.load(folder).enroll("ada", CLIPS, WORDS, options=dataclasses.replace(QUICK, folds=3))

    assert len(decoded) == 1 + 3 and decoded[0] == [name for block in decoded[1:] for name in block]
    assert [len(each) for each in trained] == [JUDGED - len(block) for block in decoded[1:]]
    assert done.held_out is not None and done.held_out.n_recordings == JUDGED


@pytest.mark.slow
def test_where_held_out_words_get_no_better_the_speaker_independent_model_is_kept_unless_overruled(folder, capsys):
    # The words of noise get no better.
    model = pqm_plugin.load(folder)
    plain = model.transcribe(CLIPS[0]).text

    done = model.enroll("ada", CLIPS, WORDS, options=QUICK)

    if done.held_out.is_better:
        pytest.skip("a random model that got better by chance")
    assert not done.keeps_own and done.best_epoch == 0
    weights = load_file(done.folder / "adapter_model.safetensors")
    assert all(not values.any() for name, values in weights.items() if "lora_B" in name)
    assert model.transcribe(CLIPS[0], "ada").text == plain
    again = model.enroll("ada", CLIPS, WORDS, options=QUICK)
    assert not again.is_new and again.held_out == done.held_out and not again.keeps_own
    assert main(["info", str(folder)]) == 0
    assert f"held out   speakers/ada: {done.held_out.before} errors before" in capsys.readouterr().out

    own = model.enroll("ada", CLIPS, WORDS, options=dataclasses.replace(QUICK, keep="own"))

    assert own.is_new and own.keeps_own and own.held_out == done.held_out
    assert any(
        values.any() for name, values in load_file(own.folder / "adapter_model.safetensors").items() if "lora_B" in name
    )


@pytest.mark.slow
def test_what_is_learned_is_the_same_with_and_without_the_check(folder, monkeypatch):
    model = pqm_plugin.load(folder)
    without = model.enroll("bob", CLIPS, WORDS, options=dataclasses.replace(QUICK, folds=0))
    assert without.held_out is None and without.keeps_own

    own = model.enroll("ada", CLIPS, WORDS, options=dataclasses.replace(QUICK, keep="own"))

    first, second = (load_file(done.folder / "adapter_model.safetensors") for done in (without, own))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert own.held_out.other is not None
    assert read_info(own.folder).request["held_out"]["other"] == own.held_out.other


def test_few_recordings_are_not_judged(folder):
    done = pqm_plugin.load(folder).enroll("ada", CLIPS[:3], WORDS[:3], options=QUICK)

    assert done.held_out is None and done.keeps_own


@pytest.mark.slow
def test_a_check_that_was_cut_off_goes_on_and_leaves_nothing_behind(conformer, monkeypatch):
    model = pqm_plugin.load(conformer)
    real, calls = judging._held_out, []

    def cut_off(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(judging, "_held_out", cut_off)
    with pytest.raises(KeyboardInterrupt):
        model.enroll("ada", CLIPS, WORDS, options=QUICK)
    [noted] = (conformer / "speakers").glob(".ada.*.judged")
    assert set(json.loads(noted.read_text())) == {"before", "after 1/2"}

    done = model.enroll("ada", CLIPS, WORDS, options=QUICK)

    assert len(calls) == 3 and done.held_out.n_recordings == JUDGED
    assert not [path for path in (conformer / "speakers").glob(".ada.*") if not path.name.endswith(".lock")]


@pytest.mark.parametrize(("option", "message"), [({"folds": 1}, "folds 1"), ({"keep": "all"}, "keep 'all'")])
def test_a_wrong_option_is_named(option, message):
    with pytest.raises((PqmError, ValueError), match=message):
        EnrollOptions(**option)
