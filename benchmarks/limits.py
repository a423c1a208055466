"""How far decoding is from what the machine can do: operations of the encoder, bytes that a decoder's step reads."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.ceilings import ceilings
from benchmarks.common import seconds_of


@dataclass
class Split:
    """Where the time of decoding goes: seconds in the encoder, and steps of the search."""

    encoder_s: float = 0.0
    steps: int = 0
    _started: list[float] = field(default_factory=list)


@contextmanager
def watched(network: Any, device: str = "cpu") -> Iterator[Split]:
    """Within it, the encoder of an ESPnet network is timed and the steps of its decoder are counted."""
    split = Split()

    def now() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def ended(*_: Any) -> None:
        split.encoder_s += now() - split._started.pop()

    def stepped(*_: Any) -> None:
        split.steps += 1

    hooks = [
        network.encoder.register_forward_pre_hook(lambda *_: split._started.append(now())),
        network.encoder.register_forward_hook(ended),
        network.decoder.output_layer.register_forward_hook(stepped),
    ]
    try:
        yield split
    finally:
        for hook in hooks:
            hook.remove()


def limits(
    recognizer: Any, audio: Sequence[np.ndarray], sizes: Sequence[int], device: str = "cpu"
) -> dict[str, dict[str, float]]:
    """By batch size, `batch1` and so on, how far decoding is from the ceilings of as many threads, measured now.

    The recogniser has decoded such batches before.
    """
    most = ceilings(device)["cuda" if device == "cuda" else f"threads{min(2, torch.get_num_threads())}"]
    return {f"batch{size}": _distance(recognizer, audio, size, most, device) for size in sizes}


def _distance(
    recognizer: Any, audio: Sequence[np.ndarray], size: int, most: Mapping[str, float], device: str
) -> dict[str, float]:
    """`size` utterances at a time.

    `encoder_gflop_per_audio_s` is counted, padding included; `encoder_share_of_product` is its rate over that of matrix
    products. `decoder_mbyte_per_step` is what a step must read: all weights of the decoder but the embedding, of which
    it reads a row; `decoder_share_of_bandwidth` is its rate over that of reading memory. It may be more than 1 where
    weights stay in the processor's cache, and is less where the small operations of a step cost more than its reading.
    """
    length_s = sum(map(len, audio)) / recognizer.facts.sample_rate
    batches = [audio[start : start + size] for start in range(0, len(audio), size)]
    with FlopCounterMode(display=False) as counter:
        for batch in batches:
            recognizer.greedy([recognizer.features(samples) for samples in batch])
    decode = lambda: [recognizer.recognize(batch) for batch in batches]  # noqa: E731
    with watched(recognizer.network, device) as split:
        took = seconds_of(decode, device)
    features_s = seconds_of(lambda: [recognizer.features(samples) for samples in audio], device)
    decoder = recognizer.network.decoder
    embedded = {id(parameter) for parameter in decoder.embed.parameters()}
    n_bytes = sum(one.nbytes for one in decoder.parameters() if id(one) not in embedded)
    search_s = took - split.encoder_s - features_s
    flop_per_s = counter.get_total_flops() / split.encoder_s
    return {
        "encoder_gflop_per_audio_s": round(counter.get_total_flops() / length_s / 1e9, 3),
        "encoder_share_of_product": round(flop_per_s / 1e9 / most["float32_gflop_per_s"], 3),
        "encoder_share_of_time": round(split.encoder_s / took, 3),
        "features_share_of_time": round(features_s / took, 3),
        "decoder_mbyte_per_step": round(n_bytes / 1e6, 2),
        "decoder_ms_per_step": round(1000 * search_s / split.steps, 3),
        "decoder_share_of_bandwidth": round(n_bytes * split.steps / search_s / 1e9 / most["read_gbyte_per_s"], 3),
    }
