"""Audio that comes in blocks is resampled as if it came whole."""

import numpy as np
import pytest

from pqm_plugin.corpus.samples import resample, resampled


@pytest.mark.parametrize(
    ("rate", "wanted"), [(44100, 16000), (48000, 16000), (8000, 16000), (11025, 16000), (2000, 8000)]
)
@pytest.mark.parametrize("size", [700, 4096, 100_000])
def test_blocks_are_resampled_to_the_very_samples_of_the_whole(rate, wanted, size):
    samples = np.random.default_rng(0).standard_normal(30_011).astype(np.float32)

    found = list(resampled((samples[first : first + size] for first in range(0, len(samples), size)), rate, wanted))

    assert np.array_equal(np.concatenate(found), resample(samples, rate, wanted))


def test_a_block_is_given_out_before_the_next_but_one_is_asked_for():
    asked = []

    def blocks():
        for place in range(10):
            asked.append(place)
            yield np.zeros(48000, np.float32)

    first = next(resampled(blocks(), 48000, 16000))

    assert len(asked) == 1 and 15_000 < len(first) <= 16_000
