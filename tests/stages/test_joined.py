"""Utterances that are put one after another to train on long speech."""

import dataclasses

import torch

from pqm_plugin.adapters.options import TrainOptions
from pqm_plugin.stages.common.material import Material, examples, training_examples
from pqm_plugin.stages.common.opening import open_base


def test_joined_utterances_are_one_speakers_and_no_longer_than_allowed(recipe, run):
    run("data", "base")
    material = Material(recipe)
    utterances = material.utterances("sat_train")
    recognizer = open_base(recipe, "full").recognizer
    alone = examples(recognizer, utterances, material.fit)
    options = TrainOptions(joined_s=4.0, joined_copies=3)

    joined = training_examples(recognizer, utterances, material.fit, options, seed=0)[len(alone) :]

    # Utterances of a second each, three a speaker.
    assert joined
    longest = max(len(example.features) for example in alone)
    for example in joined:
        assert longest < len(example.features) <= 4.1 * longest
    again = training_examples(recognizer, utterances, material.fit, options, seed=0)[len(alone) :]
    assert all(torch.equal(a.features, b.features) for a, b in zip(joined, again, strict=True))
    without = dataclasses.replace(options, joined_s=0.0)
    assert len(training_examples(recognizer, utterances, material.fit, without, seed=0)) == len(alone)
    speakers = {}
    for utterance in utterances:
        speakers.setdefault(utterance.speaker, []).append(material.fit.apply(utterance.text))
    lengths = {sum(len(recognizer.token_ids(text)) for text in texts) for texts in speakers.values()}
    assert max(len(example.tokens) for example in joined) <= max(lengths) + 2
