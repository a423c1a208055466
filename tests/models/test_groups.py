"""The losses of several groups of rows in one pass are those of each group by itself."""

import numpy as np
import pytest
import torch

from pqm_plugin.models.interface import groups
from pqm_plugin.models.replay import losses_by_group, training_loss

TEXTS = ["A CAT", "NO", "GO ON", "WHO IS IT", "STOP NOW"]


def material(recognizer):
    noise = np.random.default_rng(0)
    clips = [noise.normal(0, 0.1, 15000 - 2000 * place).astype(np.float32) for place in range(len(TEXTS))]
    return [recognizer.features(clip) for clip in clips], [recognizer.token_ids(text) for text in TEXTS]


def test_groups_follow_one_another():
    assert groups([2, 1, 3]) == [slice(0, 2), slice(2, 3), slice(3, 6)]


@pytest.mark.parametrize("sizes", [[2, 3], [1, 3, 1], [1] * 5])
def test_every_group_has_the_loss_the_tokens_and_the_right_ones_that_it_has_alone(recognizer, sizes):
    features, tokens = material(recognizer)

    with torch.no_grad():
        found = losses_by_group(recognizer)(features, tokens, sizes)
        alone = [training_loss(recognizer, features[rows], tokens[rows]) for rows in groups(sizes)]

    assert len(found) == len(sizes)
    for one, other in zip(found, alone, strict=True):
        assert float(one.total) == pytest.approx(float(other.total), rel=1e-4)
        assert (one.n_utterances, one.n_correct, one.n_tokens) == (
            other.n_utterances,
            other.n_correct,
            other.n_tokens,
        )


def test_one_group_is_bit_for_bit_the_whole_batch(recognizer):
    features, tokens = material(recognizer)

    with torch.no_grad():
        [found] = losses_by_group(recognizer)(features, tokens, [5])
        whole = training_loss(recognizer, features, tokens)

    assert found == whole
