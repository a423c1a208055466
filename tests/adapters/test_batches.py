"""What SpecAugment promises: little is hidden, nothing else changes, and the seed decides what."""

import torch

from pqm_plugin.adapters.batches import masked


def test_bands_and_stretches_are_hidden_by_the_mean_and_the_rest_stays():
    torch.manual_seed(0)
    features = torch.randn(200, 80)

    changed = [masked(features) for _ in range(20)]

    hidden = [each != features for each in changed]
    assert all(
        torch.equal(each[mask], features.mean().expand(int(mask.sum())))
        for each, mask in zip(changed, hidden, strict=True)
    )
    assert any(mask.any() for mask in hidden)
    assert all(mask.all(1).sum() <= 20 and mask.all(0).sum() <= 32 for mask in hidden)


def test_the_same_seed_hides_the_same():
    features = torch.randn(50, 80)

    torch.manual_seed(3)
    first = masked(features)
    torch.manual_seed(3)
    second = masked(features)

    assert torch.equal(first, second)


def test_an_utterance_of_few_frames_is_left_as_it_is_in_time():
    features = torch.arange(8.0).reshape(4, 2)

    changed = masked(features)

    assert torch.equal(changed, features)
