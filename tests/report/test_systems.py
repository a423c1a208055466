"""Every system has its place, its words and its look."""

from pqm_plugin.report.systems import describe, looks, ordered


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
