"""What docs/measured.md tells in percent is what the stored results say."""

from pathlib import Path

import pytest

from pqm_plugin.files import read_json
from pqm_plugin.report.gains import kept

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "egs/librispeech"


@pytest.fixture(scope="module")
def page():
    """docs/measured.md on one line."""
    return " ".join((ROOT / "docs/measured.md").read_text(encoding="utf-8").split())


@pytest.fixture(scope="module")
def conditions():
    """The three results files: joint decoding, the CTC layer alone, through the devices."""
    return [read_json(FOLDER / f"results{tag}.json") for tag in ("", "_ctc", "_device")]


def fewer(results, system, against="full"):
    """Percent of the errors of `against` that a system does not make; fewer than 0 is more."""
    [found] = [one for one in results["comparisons"] if (one["system"], one["against"]) == (system, against)]
    return 100 * found["relative_wer_reduction"]


def kept_of(results, system):
    """Percent of the gain over `nf4`."""
    return f"{100 * kept(results, system, 'nf4'):.0f} %"


def test_what_4_bits_and_adapters_cost_and_gain(page, conditions):
    joint, ctc, device = conditions

    assert (
        f"to within {-fewer(joint, 'nf4'):.1f} % of full precision's errors in joint decoding, "
        f"{-fewer(device, 'nf4'):.1f} % through the devices and {-fewer(ctc, 'nf4'):.0f} % by CTC alone"
    ) in page
    assert (
        f"With the speaker-independent adapter it makes {fewer(joint, 'nf4+sat'):.0f} % fewer errors than full "
        f"precision in joint decoding and {fewer(device, 'nf4+sat'):.0f} % fewer through the devices"
    ) in page
    assert f"{fewer(joint, 'nf4+speaker'):.0f} % and {fewer(device, 'nf4+speaker'):.0f} % fewer" in page
    of_all = ", ".join(f"{fewer(one, 'full+sat'):.0f} %" for one in (joint, device))
    assert (
        f"full precision with the speaker-independent adapter, makes {of_all} and, by CTC, "
        f"{fewer(ctc, 'full+sat'):.0f} % fewer errors"
    ) in page


def test_how_much_of_it_is_the_voices_own(page, conditions):
    joint, _, device = conditions

    assert (
        f"is {fewer(device, 'nf4+speaker', 'nf4+others'):.0f} % of the errors through the devices and "
        f"{fewer(joint, 'nf4+speaker', 'nf4+others'):.0f} % in joint decoding; neither interval excludes zero"
    ) in page
    for results in (joint, device):
        [own] = [one for one in results["comparisons"] if one["against"] == "nf4+others"]
        assert own["ci95"][0] < 0 < own["ci95"][1]


@pytest.mark.parametrize(("tag", "condition"), [("", "joint decoding"), ("_ctc", "CTC alone")])
def test_what_three_seeds_say_of_it(page, tag, condition):
    study = read_json(FOLDER / f"study{tag}.json")
    runs = [study["reference"], *(row for row in study["cells"] if row["section"] == "seeds")]
    own, nobody = (
        sum(100 * run["systems"][system]["wer"] for run in runs) / len(runs) for system in ("nf4+speaker", "nf4+sat")
    )

    assert len(runs) == 3
    assert (
        f"Over three seeds of {condition}, on another processor, WER is {own:.2f} % with a reader's own adapter and "
        f"{nobody:.2f} % with the speaker-independent one"
    ) in page
    assert study["reference"]["meta"]["hardware"] != read_json(FOLDER / f"results{tag}.json")["meta"]["hardware"]


def test_what_is_left_without_transcripts(page, conditions):
    joint, _, device = conditions
    unsupervised, nobody = (
        f"{kept_of(joint, system)} and {kept_of(device, system)}" for system in ("nf4+speaker-unsup", "nf4+sat")
    )

    assert f"adapters keep {unsupervised} of the gain over `nf4`, but the speaker-independent one alone" in page
    assert f"keeps {nobody}." in page


def test_how_much_faster_all_layers_are_adapted_than_by_the_plain_loop(page):
    ten = read_json(ROOT / "benchmarks/adapt_6_epochs_amd.json")["adapt"]["speakers10"]

    assert f"with all layers stage 5 was {ten['all_layers']['speedup']:g} times as fast as the loop in a run" in page
