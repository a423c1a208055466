"""What the benchmarks compute from what they measure, and that they measure what they say."""

import dataclasses
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from benchmarks.adapt import by_words, changed, chosen
from benchmarks.common import CONFIG, Clip, meta, middling, parse, parser, ratios, readers_clips, spread, turns
from benchmarks.decode import check_words
from benchmarks.growth import bend, by_adapters, make_adapters
from benchmarks.limits import watched
from benchmarks.mixing import epoch, mixed
from benchmarks.same_words import Known, compare, for_test
from benchmarks.step import by_batch, cut, shares, with_adapter
from pqm_plugin.adapters.batches import Example
from pqm_plugin.adapters.options import TrainOptions
from pqm_plugin.errors import PqmError
from pqm_plugin.models.families import family_of
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.stages.config import load_config


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


def test_by_words_the_speed_up_is_that_of_the_fastest_way_with_no_more_errors():
    ways = {
        "plain": {"s": 60.0},
        "all_layers": {"speedup": 2.0},
        "top_1_layers": {"speedup": 6.0},
        "unrated": {"speedup": 9},
    }

    rated = {name: {"wer": n / 100, "errors": n, "words": 100} for name, n in (("few", 12), ("more", 13))}

    found = by_words(ways, {"plain": rated["few"], "all_layers": rated["few"], "top_1_layers": rated["more"]})
    none = by_words(ways, {"plain": rated["few"], "top_1_layers": rated["more"]})

    assert (found["speedup_by_words"], found["way_by_words"]) == (2.0, "all_layers")
    assert found["top_1_layers"] == {"speedup": 6.0, "wer": 0.13, "errors": 13, "words": 100}
    assert (none["speedup_by_words"], none["way_by_words"]) == (0.0, "")


def test_times_are_not_compared_where_other_words_are_found():
    words = {"full_batch1": [("a cat", -1.0)], "stock": [("a cat", -1.5)], "full_processes": [("a cat", -1.0)]}
    packed = {"exact_batch1": [("a hat", -2.0)], "small_batch8": [("a hat", -2.0)]}

    check_words(words | packed)

    with pytest.raises(PqmError, match="stock: other words than they should find"):
        check_words(words | packed | {"stock": [("a hat", -1.5)]})
    with pytest.raises(PqmError, match="small_batch8: other words"):
        check_words(words | packed | {"small_batch8": [("a cat", -2.0)]})


def test_settings_of_adapting_are_those_of_the_recipe_but_for_what_is_named(tmp_path):
    path = tmp_path / "pqm.yaml"
    path.write_text(changed({"adapt": {"epochs": 3}, "quantize": {"calibrate": 48}}))

    ours, recipe = load_config(path), load_config(CONFIG)

    assert (ours.adapt.epochs, ours.quantize.calibrate) == (3, 48)
    assert dataclasses.replace(ours.adapt, epochs=recipe.adapt.epochs) == recipe.adapt
    assert dataclasses.replace(ours.quantize, calibrate=recipe.quantize.calibrate) == recipe.quantize
    assert (ours.lora, ours.pretrain, ours.decode) == (recipe.lora, recipe.pretrain, recipe.decode)


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


def test_quick_sizes_do_not_overwrite_what_is_stored(tmp_path, capsys):
    places = ["--model", str(tmp_path), "--speech", str(tmp_path), "--quick"]
    stored = CONFIG.parents[3] / "benchmarks/some.json"

    with pytest.raises(SystemExit):
        parse(parser("Doc.", stored), places)

    assert "name another file with --out" in capsys.readouterr().err
    assert parse(parser("Doc.", stored), [*places, "--out", str(tmp_path / "some.json")]).quick


def test_the_command_is_written_without_the_places_of_this_machine(monkeypatch, tmp_path):
    from benchmarks.common import ROOT

    script, part = str(ROOT / "benchmarks/decode.py"), str(ROOT / "benchmarks/.parts/decode.json")
    monkeypatch.setattr("sys.argv", [script, "--out", part, "--model", str(tmp_path / "model"), "--quick"])

    command = meta(0, 2)["command"]

    assert command == "python benchmarks/decode.py --out benchmarks/.parts/decode.json --model model --quick"


@pytest.mark.slow
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
    adapted, start = with_adapter(recognizer), time.perf_counter()
    found = by_batch(recognizer, adapted, clips, {1: (1, 3)}, repeats=1)
    elapsed_ms = 1000 * (time.perf_counter() - start)

    whole = recognizer.token_ids("a b c d")
    assert len(features) == len(recognizer.features(noise[:24000]))
    assert tokens.tolist() == whole[: len(whole) * 3 // 4].tolist()
    assert list(found["by_seconds"]["1"]) == ["1", "3"]
    one, three = (found["by_seconds"]["1"][size]["ms"]["median"] for size in ("1", "3"))
    # Milliseconds an utterance; each size was warmed up as well.
    assert 0 < one + 3 * three < elapsed_ms
    assert found["by_seconds"]["1"]["3"]["over_most"]["median"] == 1
    with pytest.raises(ValueError, match="no clip has 3 seconds"):
        cut(recognizer, clips, 3)


def test_a_step_of_several_readers_is_timed_beside_one_of_each(tiny_conformer):
    recognizer = family_of(tiny_conformer).load_float(tiny_conformer, SearchOptions(), "cpu")
    noise = np.random.default_rng(0).normal(0, 0.1, 32000).astype(np.float32)
    tokens = recognizer.token_ids("NO")
    by_reader = [[Example(recognizer.features(noise[: 8000 * n]), tokens) for n in range(1, 5)] for _ in range(5)]

    found = mixed(recognizer, with_adapter(recognizer), by_reader, TrainOptions(batch_frames=250), repeats=1)

    frames = [len(example.features) for example in by_reader[0]]
    # Batches of the two shortest, which are taken, and of each of the others.
    assert (found["readers"], found["frames"], found["padded"]) == (4, [2 * frames[1]] * 4, 8 * frames[1])
    assert found["epoch"] == {"steps_alone": 12, "steps_mixed": 3, "padded_over_own": 1.0}
    alone, together = (found[way]["ms"]["median"] for way in ("alone", "mixed"))
    # Milliseconds have one decimal.
    assert found["speedup"]["median"] == pytest.approx(alone / together, rel=0.1)


def test_an_epoch_of_readers_whose_batches_come_in_other_orders_is_padded():
    short, long = (Example(torch.zeros(n, 1), torch.zeros(1)) for n in (10, 20))

    found = epoch([[[short], [long]], [[long, long]]])

    # The seed of the first epoch leaves the order of two batches as it is: 10 frames are first, beside twice 20.
    assert found == {"steps_alone": 3, "steps_mixed": 2, "padded_over_own": 1.14}


def test_the_encoder_is_timed_and_steps_are_counted_while_watched(tiny_conformer):
    recognizer = family_of(tiny_conformer).load_float(
        tiny_conformer, SearchOptions(beam_size=1, max_length_ratio=-4.0), "cpu"
    )
    recognizer.network.eval()
    assert recognizer.max_batch > 1  # the trial of the search is over
    noise = np.random.default_rng(0).normal(size=16000).astype(np.float32)

    slow = recognizer.network.encoder.embed.register_forward_pre_hook(lambda *_: time.sleep(0.05))
    start = time.perf_counter()

    with watched(recognizer.network) as split:
        recognizer.recognize([noise])
    steps, elapsed_s = split.steps, time.perf_counter() - start
    slow.remove()
    recognizer.recognize([noise])

    assert 0.05 <= split.encoder_s < elapsed_s
    assert 1 <= steps <= 4
    assert split.steps == steps


def test_a_batch_counts_as_filled_by_the_frames_that_it_may_have():
    def speech(frames):
        return [Example(torch.zeros(n, 1), torch.zeros(1)) for n in frames]

    # 3 x 30 of 100 frames and 2 x 50 of them; one alone; one that is longer than a batch.
    found = shares([speech([30, 30, 30, 50, 50]), speech([20]), speech([150])], 100)

    assert (found["readers"], found["n"]) == (3, 4)
    assert found["under_filled_share"] == 0.25
    assert found["frames_in_under_filled_share"] == round(20 / (90 + 100 + 20 + 150), 3)


def test_only_cases_that_differ_are_asked_of_float64():
    clips = [Clip(Path(f"{name}.flac"), "") for name in "abc"]
    ours = [("go on", -1.0), ("stop", -2.0), ("a cat", -3.0)]
    theirs = [("go on", -1.00001), ("stop", -2.001), ("a cut", -3.5)]
    asked = []

    def exact(some):
        asked.extend(clip.path.stem for clip in some)
        return [("stop", -2.0005), ("a cat", -3.1)]

    found = compare(clips, ours, theirs, exact)

    assert asked == ["b", "c"]
    assert (found["utterances"], found["same_words"]) == (3, 2)
    assert found["largest_difference"] == pytest.approx(1e-3)
    assert [(case["utterance"], case["same_words"], case["stock_float64"]) for case in found["cases"]] == [
        ("b", True, -2.0005),
        ("c", False, -3.1),
    ]


def test_what_was_decoded_is_not_decoded_again_unless_the_request_changes(tmp_path):
    clips = [Clip(Path(f"{name}.flac"), "") for name in "abc"]
    decoded = []

    def start():
        def decode(batch):
            if len(decoded) == 1:
                raise KeyboardInterrupt
            decoded.append([clip.path.stem for clip in batch])
            return [(clip.path.stem.upper(), -1.0) for clip in batch]

        return decode

    with pytest.raises(KeyboardInterrupt):
        Known(tmp_path / "parts.json", {"commit": "abc"}).of("full", clips, 2, start)
    decoded.clear()
    found = Known(tmp_path / "parts.json", {"commit": "abc"}).of("full", clips, 2, start)
    resumed = list(decoded)
    decoded.clear()
    with pytest.raises(KeyboardInterrupt):
        Known(tmp_path / "parts.json", {"commit": "other"}).of("full", clips, 2, start)

    assert found == [("A", -1.0), ("B", -1.0), ("C", -1.0)]
    assert resumed == [["c"]]
    assert decoded == [["a", "b"]]


def test_the_utterances_that_are_compared_are_those_that_the_recipe_tests_on():
    files = [Path(f"1-1-{number:04d}.flac") for number in range(5)]

    assert [path.stem for path in for_test(files, 0)] == ["1-1-0003", "1-1-0004"]
    assert [path.stem for path in for_test(files, 1)] == ["1-1-0003"]
