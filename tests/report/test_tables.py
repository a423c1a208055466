"""Tables, and the names and looks of systems, against numbers worked out by hand."""

from pqm_plugin.report.tables import (
    describe,
    looks,
    measurements_table,
    ordered,
    speakers_table,
    systems_table,
    times_smaller,
    trained_sentence,
)


def _row(table, name):
    [line] = [line for line in table.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_system_shows_its_rates_in_percent_and_its_bytes_in_megabytes(results):
    row = _row(systems_table(results), "`nf4+speaker`")

    assert row[2:] == ["12.00", "[9.00, 15.00]", "12.00", "6.00", "8.00", "0.50", "0.96", "7.06", "0.250", "800"]


def test_a_system_without_adapter_shows_none(results):
    row = _row(systems_table(results), "`nf4`")

    assert row[7:10] == ["–", "–", "7.50"]


def test_times_smaller_counts_the_adapter_against_the_system(results):
    assert times_smaller(results, "nf4") == 60 / 8
    assert times_smaller(results, "nf4+speaker") == 60 / 8.5


def test_without_a_full_precision_system_nothing_is_called_smaller(results):
    del results["systems"]["full"], results["systems"]["espnet"]

    assert times_smaller(results, "nf4") is None


def test_every_speaker_has_a_row_and_the_last_row_is_for_all(results):
    table = speakers_table(results)

    assert _row(table, "bob") == ["bob", "10", "100", "20.00", "20.00", "20.00", "24.00", "19.00", "15.00", "18.00"]
    assert table.splitlines()[-1].startswith("| **all** | **20** | **200** | **15.00** |")


def test_measurements_show_the_columns_that_are_there_in_a_fixed_order():
    rows = [{"dev_wer": 0.05, "kind": "attention"}, {"kind": "ctc", "parameters": 12345, "own_thing": 0.5}]

    assert measurements_table(rows) == (
        "| kind of layer | parameters | dev WER % | own thing |\n"
        "| :-- | --: | --: | --: |\n"
        "| attention | – | 5.00 | – |\n"
        "| ctc | 12,345 | – | 0.5 |\n"
    )


def test_a_whole_model_for_each_speaker_is_as_large_as_the_base_and_shares_nothing(results):
    results["systems"]["full+copy"] = results["systems"]["full"] | {
        "model_bytes": 0,
        "adapter_bytes": 60_000_000,
        "adapter_fraction": 1.0,
    }

    row = _row(systems_table(results), "`full+copy`")

    assert row[6:10] == ["0", "60.00", "100.00", "1.00"]


def test_both_counts_of_a_toolkits_own_lora_are_said(results):
    assert trained_sentence(results) == ""

    results["systems"]["nf4"]["trainable"] = {"by_default": 1010, "frozen": 10, "base": 1000}

    assert trained_sentence(results) == (
        "`nf4`: as its toolkit makes it, 1,010 parameters learn (101.00 % of the base's 1,000); here the base is "
        "frozen, and 10 learn (1.00 %)."
    )


def test_the_fixed_systems_come_first_and_the_others_by_name():
    mixed = ["nf4+speaker-unsup", "nf4+other", "full+sat", "nf4", "full", "nf4+speaker", "int8", "espnet", "nf4+sat"]

    assert ordered(mixed) == [
        *("espnet", "full", "full+sat", "int8", "nf4", "nf4+sat", "nf4+speaker", "nf4+other"),
        "nf4+speaker-unsup",
    ]


def test_a_system_is_described_from_its_base_and_its_adapter():
    assert describe("nf4") == "the base in 4 bits"
    assert describe("full+sat") == "the base in full precision, with the speaker-independent LoRA"
    assert describe("nf4+other2").endswith("another target speaker's LoRA (control), 2 places on in the list")
    assert describe("nf4+speaker-unsup3").endswith("learned without transcripts, 3 rounds")
    assert describe("nf2+new") == "nf2, with new"
    assert describe("full+copy").endswith("from the speaker-independent LoRA on: a whole model for each")
    assert describe("full+espnet-lora") == (
        "the base in full precision, with ESPnet's own LoRA for the speaker, from the base itself on, all else frozen"
    )


def test_no_two_systems_of_a_figure_look_alike():
    systems = ["espnet", "full", "int8", "nf4", "nf4+sat", "nf4+speaker", "nf4+other", "full+sat", "full+speaker"]
    systems += ["full+copy", "full+espnet-lora"]

    assert len(set(looks(systems).values())) == len(systems)


def test_a_known_system_looks_the_same_whatever_stands_beside_it():
    assert looks(["nf4", "a", "b"])["nf4"] == looks(["full", "nf4"])["nf4"]
