"""results.json holds what other pages quote, and RESULTS.md says what it holds."""

import json
import math
from pathlib import Path

import pytest

from benchmarks.growth_figure import draw
from benchmarks.page import FIGURE, GOALS, beside, page, unmet
from benchmarks.page_adapting import in_words
from benchmarks.results import REQUIRED, merged, missing, value

HERE = Path(__file__).resolve().parents[2] / "benchmarks"
COMMITTED = [path for path in (HERE / "results.json", HERE / "cuda/results.json") if path.is_file()]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parent.name)
def test_the_committed_page_is_what_the_committed_numbers_give(path):
    results = json.loads(path.read_text(encoding="utf-8"))

    assert missing(results) == []
    assert not results["meta"]["quick"]
    assert path.with_name("RESULTS.md").read_text(encoding="utf-8") == page(results, beside(results))
    assert (path.parent / FIGURE).is_file()


def test_what_is_not_there_or_no_finite_number_is_named(results):
    assert missing(results) == []

    results["switch"]["ms"] = math.nan
    results["decode"]["beam1"]["speedup"] = "fast"
    del results["modes"]["small"]["weights_memory_ratio"]
    del results["adapt"]["speakers10"]

    assert missing(results) == [
        "decode.beam1.speedup",
        "modes.small.weights_memory_ratio",
        "adapt.speakers10.speedup",
        "adapt.speakers10.speedup_by_words",
        "switch.ms",
    ]


def test_a_script_that_was_left_out_owes_no_number_and_has_no_section(results):
    del results["adapt"], results["switch"], results["growth"]
    results["meta"]["skipped"] = ["adapt", "growth"]

    written = page(results, {})

    assert missing(results) == []
    assert "* left out: adapt, growth\n" in written
    assert "| `adapt.speakers10.speedup` | – | >= 3 | – |" in written
    assert not {"## Adaptation\n", "## Growth\n"} & set(written.splitlines(keepends=True))
    assert "## A step of adaptation\n" in written


def test_steps_of_several_speakers_have_a_paragraph_where_they_were_measured(results):
    before = page(results, {})
    one = {"median": 200.0, "low": 190.0, "high": 210.0}
    results["step"]["mixed"] = {
        **{"readers": 4, "frames": [1200, 1300], "padded": 2700, "speedup": {"median": 3.5, "low": 3.25, "high": 3.75}},
        **{"alone": {"ms": one}, "mixed": {"ms": one}},
        "epoch": {"steps_alone": 52, "steps_mixed": 15, "padded_over_own": 1.6},
    }

    written = page(results, {})

    assert "--speakers_per_batch" not in before
    assert "`--speakers_per_batch 4` computes them 3.50" in written
    assert "15 steps instead of 52, with 1.60 times as many frames" in written


def test_a_gpu_has_its_own_page_without_what_a_cpu_found(results, others):
    results["meta"]["cuda_device"] = "NVIDIA H200"

    written = page(results, beside(results))

    assert "CUDA device: NVIDIA H200; float32 without TF32, of stock tools too" in written
    assert "Factors are in the device's memory" in written
    assert beside(results) == {}


def test_every_required_number_but_the_reference_modes_has_a_goal():
    assert set(REQUIRED) - {key for key, *_ in GOALS} == {"modes.exact.weights_memory_ratio"}


def test_the_page_says_which_goals_are_met(results):
    results["modes"]["small"]["weights_memory_ratio"] = 0.5

    written = page(results, {})

    assert "| `decode.beam10.speedup` | 4 | >= 3 | yes |" in written
    assert "| `modes.small.weights_memory_ratio` | 0.5 | <= 0.35 | no |" in written
    assert "| 10 | `full_batch8` | 2.000 [1.000, 4.000] | 0.050 [0.025, 0.100] | 4.00 [2.00, 8.00] |" in written
    assert "torch 2.14.1" in written
    assert "24.0 GB of memory" in written
    assert "show that the scripts work" not in written
    assert unmet(results) == ["`small`: memory of weights over that of float32"]


def test_the_page_says_for_every_beam_how_much_faster_each_way_of_decoding_is(results):
    results["decode"]["beam1"]["full_batch1"]["speedup"]["median"] = 1.5

    written = page(results, {})

    heads = "float, one at a time | 4 bits, one at a time | float, batches of 8 | `small`, batches of 8"
    assert f"| beam | {heads} |" in written
    assert "| 10 | 2.50 | 2.00 | 4.00 | 1.60 |" in written
    assert "| 1 | 1.50 | 2.00 | 4.00 | 1.60 |" in written
    assert "| 10 | 8 | 0.02 | 0.5 | 1 | 0.7 | 8.7 | 2.5 | 0.3 |" in written


def test_the_page_says_what_a_fuller_batch_could_bring(results):
    written = page(results, {})

    assert "hold up to 2,000 frames" in written
    assert "Of the 100 batches of 10 readers' train utterances 25 % are filled by less than 90 %, with 12 %" in written
    assert "| 1 | 1 | 40.0 [20.0, 80.0] | 4.00 [2.00, 8.00] |" in written


def test_the_page_quotes_the_real_run_and_the_comparison_of_all_words_where_they_are_there(results, others):
    written, alone = page(results, others), page(results, {})

    assert "* beam 10: 317 of 318 utterances have stock's words" in written
    assert "| 10 | 1-2-0003 | others | -4.50000 | -4.25000 | -4.37500 |" in written
    assert "at commit `fedcba987654`: WER of `espnet` (stock) 12.50 %, `full` (the float model here) 12.50 %" in written
    assert "All 318 test utterances of 5,339 words in the same modes" in written
    assert "with the errors: `full` 12.50 % (667), `small` 25.00 % (1335); by `python" in written
    assert "6 epochs on A processor: " in written
    assert "3.5 times faster with no more dev word errors (all layers 12.50 %; plain 12.50 %)." in written
    assert "The same words" not in alone
    assert "other machines" not in alone
    assert "The recipe's own run" not in alone
    assert "in the same modes" not in alone
    others["same_words"]["beams"]["beam10"]["cases"] = []
    assert "No words differ, and no score by more than 0.0001." in page(results, others)


def test_the_dev_errors_of_the_plain_loop_are_shown_beside_the_others(results):
    assert "| 10 | all layers, plain | 0.001 | 70.0 | 0.9000 | 12.50 % | 1.00 |" in page(results, {})
    results["adapt"]["speakers10"]["plain"] |= {"errors": 350, "words": 2800}
    assert "| 0.9000 | 12.50 %, 350 of 2,800 | 1.00 |" in page(results, {})


def test_where_no_way_keeps_up_the_page_says_what_was_tried_and_by_how_much_it_falls_behind(results):
    ten = results["adapt"]["speakers10"]
    ten |= {"speedup_by_words": 0.0, "way_by_words": ""}
    ten["all_layers"] |= {"wer": 0.25}

    assert in_words(results).endswith("; all layers make more dev word errors (25.00 %; plain 12.50 %).")
    assert "| `adapt.speakers10.speedup_by_words` | none | >= 3 | no |" in page(results, {})


def test_decoding_by_processes_is_shown_where_it_was_measured(results):
    before = page(results, {})
    one = {"median": 3.5, "low": 3.25, "high": 3.75}
    results["decode"]["beam10"] |= {
        "processes": {"speedup": one},
        "stock_processes": {"s": one, "rtf": one, "speedup": one},
    }

    assert "In processes of one thread each" not in before
    assert "are times faster than stock: 3.50 [3.25, 3.75] at beam 10, where stock is 3.50 times" in page(results, {})


@pytest.mark.parametrize("beam", ["beam10", "beam1"])
def test_all_test_utterances_have_stocks_words_and_its_scores_but_for_the_order_of_float32s_sums(beam):
    found = json.loads((HERE / "same_words.json").read_text(encoding="utf-8"))["beams"][beam]

    assert found["same_words"] == found["utterances"] == 318
    assert all(abs(case["ours"] - case["stock"]) < 1e-4 * abs(case["stock"]) for case in found["cases"])


def test_scores_that_differ_are_set_beside_float64(results, others):
    case = {"utterance": "1-2-0004", "same_words": True, "ours": -4.5, "stock": -4.0, "stock_float64": -4.375}
    others["same_words"]["beams"]["beam10"]["cases"].append(case)

    written = page(results, others)

    assert "Beam 10: where words are the same, ours is the nearer to float64 in 1 of 1, stock's own" in written
    assert "another order, 1.2e-01 of the score apart at most." in written


def test_a_quick_run_is_marked_as_one_and_may_lack_what_it_does_not_measure(results):
    results["meta"]["quick"] = True
    results["adapt"]["speakers2"] = results["adapt"].pop("speakers10")

    written = page(results, {})

    assert "show that the scripts work, and nothing else" in written
    assert "| `adapt.speakers10.speedup` | – | >= 3 | – |" in written


@pytest.mark.slow
def test_the_figure_has_its_five_panels_and_the_same_bytes_every_time(results, tmp_path):
    draw(results, tmp_path / "first.svg")
    draw(results, tmp_path / "again.svg")

    assert (tmp_path / "first.svg").read_bytes() == (tmp_path / "again.svg").read_bytes()
    assert (tmp_path / "first.svg").read_text().count('id="axes_') == 6


def test_parts_are_merged_with_the_highest_ceilings_that_were_measured():
    def part(name, rate):
        ceilings = {"threads1": {"read_gbyte_per_s": rate, "float32_gflop_per_s": 10 - rate}}
        return {"meta": {"command": name}, "ceilings": ceilings, "request": {"took_s": rate}, name: {"speedup": rate}}

    found = merged({"decode": part("decode", 4.0), "modes": part("modes", 6.0)}, {"seed": 0})

    assert found["ceilings"] == {"threads1": {"read_gbyte_per_s": 6.0, "float32_gflop_per_s": 6.0}}
    assert value(found, "decode.speedup") == 4.0
    parts = {"decode": {"command": "decode", "took_s": 4.0}, "modes": {"command": "modes", "took_s": 6.0}}
    assert found["meta"] == {"seed": 0, "parts": parts}
    assert "request" not in found


def test_many_callers_are_shown_where_they_were_measured_with_what_their_words_were(results, others):
    written = page(results, others)

    assert "it answers 4 times as many as one at a time; it keeps up with p95 1.25 s at the 4 a second." in written
    assert "Every answer has the words that it has alone." in written
    assert "| 50 at once | 8.00 | 5.00 | 7.50 | 0 |" in written
    assert "| at 50% of that, at random times | 4.00 | 5.00 | 1.25 | 0 |" in written
    assert "| 1,000 | 8 | 7.5 | 25 | 900 | 4.5 |" in written
    others["serve"]["growth"]["1000"]["other_words"] = 2
    others["serve"]["keeps_up"] = []
    assert "keeps up with none of the rates. 2 answers have other words than alone." in page(results, others)
    assert "Many callers" not in page(results, {})


def test_whole_processes_are_shown_beside_their_peers_with_goals_that_are_met_or_not(results, others):
    shares = others["hear"]["models"]["base"]["sets"]["clips"]["onnx"]["over"]
    shares["faster-whisper int8"]["peak_bytes"]["median"] = 0.8

    written = page(results, others)

    assert "| `small` | alone | onnx | 0.50 [0.25, 0.75] | 0.50 [0.25, 0.75] | 250 | 5 | 200 |" in written
    peer = "of faster-whisper int8"
    assert f"| `base`, clips, onnx: time {peer} | 0.50 [0.25, 0.75] | <= 1 | yes |" in written
    assert f"| `base`, clips, onnx: peak memory {peer} | 0.80 [0.25, 0.75] | <= 0.75 | no |" in written
    assert f"| `base`, short, onnx, context clip: time {peer} | 0.50 [0.25, 0.75] | <= 0.35 | no |" in written
    assert "From files to words" not in page(results, {})
