"""The table of a first page: conditions side by side, each system once."""

from pqm_plugin.report.summary import summary_table


def results(wer, systems=("full", "nf4+other", "nf4+other2")):
    entry = {"wer": wer, "wer_ci95": [wer / 2, 2 * wer], "model_bytes": 8_000_000, "adapter_bytes": 500_000}
    gain = {"relative_wer_reduction": 0.25, "ci95": [0.1, 0.4]}
    rows = [{"system": "nf4+other", "against": "full", **gain, "normalized": gain | {"ci95": [-0.1, 0.3]}}]
    return {"systems": dict.fromkeys(systems, entry), "comparisons": rows}


def test_conditions_stand_side_by_side_and_pairings_of_other_speakers_once():
    page = summary_table({"plain": results(0.1), "noisy": results(0.3)})

    heads, _, *rows = page.strip().splitlines()
    assert "WER %, plain" in heads and "WER %, noisy" in heads
    assert [row.split("|")[1].strip() for row in rows] == ["`full`", "`nf4+other`"]
    assert "10.00 | 25.0 [10.0, 40.0] | 25.0 [-10.0, 30.0] | 30.00" in rows[1]
    assert " 8.5 | 0.9 |" in rows[1]


def test_a_condition_that_lacks_a_system_has_dashes_for_it():
    page = summary_table({"plain": results(0.1), "noisy": results(0.3, systems=("full",))})

    assert page.strip().splitlines()[-1].endswith("| – | – | – |")
