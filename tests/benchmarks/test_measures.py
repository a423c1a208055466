"""What the benchmarks compute from what they measure, and that they measure what they say."""

import numpy as np
import pytest
import soundfile
import torch

from benchmarks._adapt_step import by_batch, cut
from benchmarks.adapt import chosen
from benchmarks.common import Clip, meta, middling, parse, parser, ratios, readers_clips, spread, turns
from benchmarks.growth import bend, by_adapters, make_adapters
from benchmarks.limits import watched
from pqm_plugin.errors import PqmError
from pqm_plugin.models.families import family_of
from pqm_plugin.models.options import SearchOptions


def test_a_straight_line_has_no_bend_and_a_square_has():
    assert bend({1: 3.0, 2: 5.0, 10: 21.0}) == 0
    assert bend({1: 1.0, 2: 4.0, 10: 100.0}) > 0.5


def test_the_spread_is_the_median_with_its_extremes_and_ratios_are_of_the_same_turn():
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "low": 1.0, "high": 3.0}
    assert ratios([6.0, 8.0], [2.0, 4.0]) == [3.0, 2.0]


def test_systems_take_turns():
    calls = []
    took = turns({"ours": lambda: calls.append("ours"), "theirs": lambda: calls.append("theirs")}, repeats=2)

    assert calls == ["ours", "theirs"] * 2
    assert {name: len(runs) for name, runs in took.items()} == {"ours": 2, "theirs": 2}


def test_the_speed_up_is_that_of_the_fastest_way_that_loses_nothing():
    plain = {"s": 60.0, "dev_accuracy": 0.9}
    slow = {"s": 30.0, "dev_accuracy": 0.8995, "speedup": 2.0}
    lossy = {"s": 10.0, "dev_accuracy": 0.89, "speedup": 6.0}

    found = chosen({"plain": plain, "all_layers": slow, "top_1_layers": lossy})
    none = chosen({"plain": plain, "top_1_layers": lossy})

    assert (found["speedup"], found["way"]) == (2.0, "all_layers")
    assert (none["speedup"], none["way"]) == (0.0, "")


def test_utterances_are_those_of_middling_size_and_too_few_readers_are_an_error(make_corpus):
    corpus = make_corpus({"dev": {"1-1-0": "A CAT", "1-1-1": "A DOG", "1-1-2": "GO ON", "2-1-0": "STOP"}})

    clips = readers_clips(corpus / "dev", 2, middling)
    last = readers_clips(corpus / "dev", 2, lambda files: files[-2:])

    assert [len(clip.samples) for clip in clips] == [1600, 1600]
    assert [clip.seconds for clip in clips] == [0.1, 0.1]
    assert [clip.text for clip in last] == ["a dog", "go on", "stop"]
    with pytest.raises(PqmError, match="2 readers are there, 3 were asked for"):
        readers_clips(corpus / "dev", 3, middling)


def test_quick_sizes_are_taken_unless_a_size_is_given(tmp_path):
    options = parser("Doc.", repeats=(5, 1, "turns"), threads=(2, 2, "threads"))
    places = ["--out", "x.json", "--model", str(tmp_path), "--speech", str(tmp_path)]

    assert parse(options, places).repeats == 5
    assert parse(options, [*places, "--quick"]).repeats == 1
    assert parse(options, [*places, "--quick", "--repeats", "3"]).repeats == 3
    with pytest.raises(PqmError, match="is not there"):
        parse(options, [*places, "--speech", str(tmp_path / "none")])


def test_the_command_is_written_without_the_places_of_this_machine(monkeypatch, tmp_path):
    from benchmarks.common import ROOT

    script, part = str(ROOT / "benchmarks/decode.py"), str(ROOT / "benchmarks/.parts/decode.json")
    monkeypatch.setattr("sys.argv", [script, "--out", part, "--model", str(tmp_path / "model"), "--quick"])

    command = meta(0, 2)["command"]

    assert command == "python benchmarks/decode.py --out benchmarks/.parts/decode.json --model model --quick"


@torch.no_grad()
def test_adapters_are_held_or_paged_and_none_is_read_while_those_held_are_switched(tiny_conformer, tmp_path):
    folders = make_adapters(tiny_conformer, tmp_path, 10)
    network = family_of(tiny_conformer).load_float(tiny_conformer, SearchOptions(), "cpu").network

    held = by_adapters(network, folders, (1, 10), 20, None)
    one = held["1"]["held_bytes"]
    paged = by_adapters(network, folders, (1, 10), 20, 3 * one)

    assert (held["10"]["in_memory"], held["10"]["held_bytes"]) == (10, 10 * one)
    assert (paged["10"]["in_memory"], paged["10"]["held_bytes"]) == (3, 3 * one)
    assert 0 < held["10"]["switch_ms"]["median"] <= held["10"]["switch_ms"]["p95"] <= held["10"]["switch_ms"]["high"]


def test_a_step_is_timed_for_batches_of_utterances_of_one_length(tiny_conformer, tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.1, 32000).astype(np.float32)
    clips = []
    for seconds in (1, 2):
        soundfile.write(tmp_path / f"{seconds}.flac", noise[: 16000 * seconds], 16000)
        clips.append(Clip(tmp_path / f"{seconds}.flac", "a b c d"))
    recognizer = family_of(tiny_conformer).load_float(tiny_conformer, SearchOptions(), "cpu")

    [(features, tokens)] = cut(recognizer, clips, 1.5)
    found = by_batch(tiny_conformer, clips, {1: (1, 3)}, repeats=1)

    whole = recognizer.token_ids("a b c d")
    assert len(features) == len(recognizer.features(noise[:24000]))
    assert tokens.tolist() == whole[: len(whole) * 3 // 4].tolist()
    assert list(found["by_seconds"]["1"]) == ["1", "3"]
    assert found["by_seconds"]["1"]["1"]["ms"]["median"] > 0
    assert found["by_seconds"]["1"]["3"]["over_most"]["median"] == 1
    with pytest.raises(ValueError, match="no clip has 3 seconds"):
        cut(recognizer, clips, 3)


def test_the_encoder_is_timed_and_steps_are_counted_while_watched(tiny_conformer):
    recognizer = family_of(tiny_conformer).load_float(
        tiny_conformer, SearchOptions(beam_size=1, max_length_ratio=-4.0), "cpu"
    )
    recognizer.network.eval()
    assert recognizer.max_batch > 1  # the trial of the search is over
    noise = np.random.default_rng(0).normal(size=16000).astype(np.float32)

    with watched(recognizer.network) as split:
        recognizer.recognize([noise])
    steps = split.steps
    recognizer.recognize([noise])

    assert split.encoder_s > 0
    assert 1 <= steps <= 4
    assert split.steps == steps
