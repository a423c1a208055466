"""Results such as `make bench` writes, of numbers that can be checked by hand."""

import copy
from typing import Any

import pytest


def three(median: float) -> dict[str, float]:
    return {"median": median, "low": median / 2, "high": median * 2}


def part_meta(name: str) -> dict[str, Any]:
    return {
        "commit": "0123456789ab",
        "command": f"python benchmarks/{name}.py",
        "threads": 2,
        "load_average": [0.25, 0.5, 1.0],
        "others_running": 0.25,
    }


def mode(ratio: float, wer: float) -> dict[str, Any]:
    return {
        "file_bytes": 8_830_000,
        "open_s": three(1.5),
        "peak_while_opening_bytes": 9e8,
        "peak_while_decoding_bytes": 7e8,
        "weights_memory_ratio": ratio,
        "weights_memory_ratio_spread": three(ratio),
        "decode_s": three(4.0),
        "speed_of_stock": three(1.25),
        "words_of_full": 8,
        "wer": wer,
        "words": 1600,
        "errors": 160,
    }


def beam() -> dict[str, Any]:
    limits = {
        "encoder_gflop_per_audio_s": 1.0,
        "encoder_share_of_product": 0.4,
        "encoder_share_of_time": 0.5,
        "features_share_of_time": 0.02,
        "decoder_mbyte_per_step": 8.7,
        "decoder_ms_per_step": 2.5,
        "decoder_share_of_bandwidth": 0.3,
    }
    full = {"s": three(2.0), "rtf": three(0.05), "speedup": three(4.0)}
    alone = {"s": three(3.2), "rtf": three(0.08), "speedup": three(2.5)}
    packed = {"s": three(4.0), "rtf": three(0.1), "speedup": three(2.0)}
    small = {"s": three(5.0), "rtf": three(0.125), "speedup": three(1.6)}
    apart = {"ours_to_stock": 1e-5, "ours_to_float64": 2e-5, "stock_to_float64": 3e-5}
    stock = {"s": three(8.0), "rtf": three(0.2)}
    systems = {"stock": stock, "full_batch1": alone, "exact_batch1": packed, "full_batch8": full, "small_batch8": small}
    both = {"batch1": limits, "batch8": {**limits, "encoder_share_of_product": 0.7}}
    return {"speedup": 4.0, "same_words": True, **systems, "limits": both, "scores": apart}


def adapters(held_bytes: int) -> dict[str, Any]:
    switch = {**three(0.25), "p95": 0.75}
    return {
        "load_ms": three(1.25),
        "in_memory": 1,
        "held_bytes": held_bytes,
        "process_grew_by_bytes": held_bytes,
        "switch_ms": switch,
    }


RESULTS = {
    "meta": {
        "commit": "0123456789ab",
        "command": "python benchmarks/run.py",
        "seed": 0,
        "hardware": "A processor, 2 cores, 2 threads, Linux",
        "memory_bytes": 24_000_000_000,
        "date": "2026-11-23",
        "versions": {"torch": "2.14.1", "bitsandbytes": "0.50.2", "espnet": "202611"},
        "took_s": 840.0,
        "quick": False,
        "parts": {name: part_meta(name) for name in ("decode", "modes", "adapt", "step", "growth")},
    },
    "ceilings": {"threads1": {"read_gbyte_per_s": 20.0, "float32_gflop_per_s": 150.0, "bfloat16_gflop_per_s": 300.0}},
    "decode": {"utterances": 8, "audio_s": 40.0, "batch_size": 8, "beam10": beam(), "beam1": beam()},
    "modes": {
        "utterances": 10,
        "audio_s": 80.0,
        "wer_utterances": 100,
        "beam": 10,
        "float_weights_bytes": 62_000_000,
        **{name: mode(1.0, 0.1) for name in ("stock", "full", "exact")},
        "small": mode(0.25, 0.1),
    },
    "adapt": {
        "schedule": "linear",
        "epochs": 2,
        "learning_rates": {"all": 1e-3, "top": 2e-3},
        "threads_of_plain": 2,
        "utterances_a_speaker": 32,
        "minutes_a_speaker": 2.5,
        "sat_readers": 6,
        "calibrated_by": 48,
        "speakers10": {
            "speedup": 3.5,
            "way": "all_layers",
            "speedup_by_words": 3.5,
            "way_by_words": "all_layers",
            "plain": {"s": 70.0, "dev_accuracy": 0.9, "wer": 0.125},
            "all_layers": {"s": 20.0, "dev_accuracy": 0.9, "wer": 0.125, "speedup": 3.5},
        },
    },
    "step": {
        "batch_frames": 2000,
        "batches": {
            "readers": 10,
            "n": 100,
            "full": 0.9,
            "under_filled_share": 0.25,
            "frames_in_under_filled_share": 0.125,
        },
        "by_seconds": {"1": {n: {"ms": three(40.0), "over_most": three(ratio)} for n, ratio in (("1", 4), ("20", 1))}},
    },
    "switch": {"ms": 0.25, "ms_p95": 0.75, "adapters": 1000, "reloads": 0},
    "growth": {
        "adapters": {
            "memory_mib": 64,
            "held": {"1": adapters(500_000), "1000": adapters(500_000_000)},
            "paged": {"1": adapters(500_000), "1000": adapters(64_000_000)},
        },
        "batch": {name: {"s": three(1.0), "over_none": three(1.0)} for name in ("0", "1", "8")},
        "length": {
            "by_seconds": {
                str(length): {"s": three(length / 10), "encoder_s": 0.1, "steps": 3 * length} for length in (2, 8, 32)
            },
            "bend": 0.125,
        },
        "beam": {"by_beam": {str(n): {"s": three(1 + n / 10)} for n in (1, 5, 20)}, "bend": 0.05},
    },
}


CASE = {"utterance": "1-2-0003", "same_words": False, "ours": -4.5, "stock": -4.25, "stock_float64": -4.375}
SAME_WORDS = {
    "meta": {
        "command": "python benchmarks/same_words.py",
        "commit": "ba9876543210",
        "date": "2026-11-23",
        "hardware": "A processor",
        "quick": False,
    },
    "readers": 10,
    "tolerance": 1e-4,
    "beams": {
        "beam10": {"utterances": 318, "same_words": 317, "largest_difference": 5e-5, "cases": [CASE]},
        "beam1": {"utterances": 318, "same_words": 318, "largest_difference": 2e-5, "cases": []},
    },
}
RECIPE = {
    "meta": {"commit": "fedcba987654"},
    "systems": {
        name: {"wer": wer, "utterances": 318, "words": 5339}
        for name, wer in (("espnet", 0.125), ("full", 0.125), ("nf4", 0.25), ("nf4+sat", 0.0625))
    },
}


@pytest.fixture
def others() -> dict[str, Any]:
    """Return what the page shows beside, which a test may change."""
    modes = {
        "full": {"wer": 0.125, "words": 5339, "errors": 667},
        "small": {"wer": 0.25, "words": 5339, "errors": 1335},
    }
    words_by_mode = {"meta": SAME_WORDS["meta"], "utterances": 318, "modes": modes}
    six_epochs = {"meta": SAME_WORDS["meta"], "adapt": RESULTS["adapt"] | {"epochs": 6}}
    at_once = {"requests_per_s": 8.0, "median_s": 5.0, "p95_s": 7.5, "answered": 200, "refused": 0, "other_words": 0}
    load = at_once | {"share": 0.5, "requests_per_s": 4.0, "p95_s": 1.25, "answered_per_s": 3.98, "keeps_up": True}
    weighs = {"start_s": 4.5, "rss_mb": 900.0, "peak_rss_mb": 950.0, "models_ms": 2.5}
    serve = {
        "meta": SAME_WORDS["meta"]
        | {"threads": 1, "command": "python benchmarks/serve.py --out benchmarks/serve.json"},
        **{"model": "conformer_small", "speakers": 20, "clients": 50, "requests": 200, "speech_s": 1300.0},
        "one_at_a_time": {"requests_per_s": 2.0, "median_s": 0.5, "p95_s": 1.0},
        **{"at_once": at_once, "speedup": 4.0, "open_loop": [load], "keeps_up": [load]},
        "growth": {"20": at_once | weighs, "1000": at_once | weighs | {"models_ms": 25.0}},
    }
    half = {"median": 0.5, "low": 0.25, "high": 0.75}
    way = {"seconds": half, "processor_s": half, "peak_mb": 250, "errors": 5, "words": 200}
    shares = {what: dict(half) for what in ("seconds", "processor_s", "peak_bytes")}
    models = {}
    for name, kind, peer in (("small", "conformer", "stock ESPnet"), ("base", "whisper", "faster-whisper int8")):
        ours = way | {"over": {"torch": shares, peer: copy.deepcopy(shares)}}
        ways = {"onnx": ours, "onnx, context clip": ours, "torch": way, peer: way}
        parts = {part: copy.deepcopy(ways) for part in ("clips", "short", "alone")}
        models[name] = {"kind": kind, "beam": 5, "peer": peer, "sets": parts}
    hear = {
        "meta": serve["meta"] | {"turns": 2, "command": "python benchmarks/hear.py"},
        "sets": {"clips": {"clips": 10, "seconds": 70.5}, "alone": {"clips": 1, "seconds": 5.01}},
        "models": models,
    }
    beside = {
        "hear": hear,
        "serve": serve,
        "same_words": SAME_WORDS,
        "recipe": RECIPE,
        "adapted": [six_epochs],
        "words_by_mode": words_by_mode,
    }
    return copy.deepcopy(beside)


@pytest.fixture
def results() -> dict[str, Any]:
    """Return results that a test may change."""
    return copy.deepcopy(RESULTS)
