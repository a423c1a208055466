"""What a gain is made of, from numbers that can be checked by hand."""

from pqm_plugin.report.gains import gain_parts, gain_table, own_sentence, split_table, unsupervised_sentence
from tests.report.conftest import entry


def test_the_gain_over_four_bits_is_split_into_any_adapters_and_ones_own(systems):
    lines = gain_table({"systems": systems}).splitlines()

    # 140 errors: 20 go with SAT (40 % of 50), 5 more with the mean of the others (10 %), 25 with one's own (50 %).
    assert lines[3] == "| speaker-independent LoRA | 12.00 | 14.3 | 40.0 |"
    assert lines[4] == "| another speaker's LoRA, mean of 2 | 11.50 | 4.2 | 10.0 |"
    assert lines[5] == "| one's own LoRA | 9.00 | 21.7 | 50.0 |"


def test_without_a_control_no_gain_is_split(systems):
    del systems["nf4+other"], systems["nf4+other2"]

    assert gain_table({"systems": systems}) == ""


def compared(systems, **lower_ends):
    """Results whose comparisons with the speaker's own adapter have these lower ends of their intervals."""
    rows = [
        {"system": "nf4+speaker", "against": against.replace("_", "+"), "ci95": [low, 0.5]}
        for against, low in lower_ends.items()
    ]
    return {"systems": systems, "comparisons": rows}


def test_the_shares_that_are_kept_without_transcripts_are_said(systems):
    said = unsupervised_sentence(compared(systems, nf4=0.1, nf4_sat=0.1))

    # Transcripts take 50 of 140 errors away and 30 of 120, one's own words 41 and 21.
    # Of the 50 the speaker-independent adapter alone takes 20.
    assert (
        "82 % of what they gain over 4 bits without adapter (40 % are left with the speaker-independent adapter" in said
    )
    assert "none of them); 70 % of what they gain over the speaker-independent adapter." in said


def test_of_a_gain_that_is_not_shown_no_share_is_given(systems):
    said = unsupervised_sentence(compared(systems, nf4=0.1, nf4_sat=-0.1))

    assert "82 % of" in said
    assert "no share of what they gain over the speaker-independent adapter" in said
    assert unsupervised_sentence({"systems": {"nf4": entry(140)}, "comparisons": []}) == ""


def test_the_parts_of_the_gain_have_their_intervals_where_stage_7_gave_them(systems):
    parts = {
        part: {"part": part, "of_errors": share, "ci95": [share - 0.1, share + 0.1], "p_improvement": 0.9}
        for part, share in (("anyone", 0.3), ("own", 0.05), ("whole", 0.35))
    }
    split = [row | {"normalized": row | {"of_errors": 0.02}} for row in parts.values()]
    results = {"systems": systems, "comparisons": []}

    lines = split_table(results | {"gain_split": split}).splitlines()

    assert lines[3] == "| only one's own LoRA | 5.0 | [-5.0, 15.0] | 0.900 | 2.0 | [-5.0, 15.0] |"
    assert split_table(results) == ""
    assert gain_parts(results | {"gain_split": split}, "*Lossy.*").count("*Lossy.*") == 2


def test_what_is_the_speakers_own_is_said_against_the_mean_of_all_others(systems):
    row = {"system": "nf4+speaker", "against": "nf4+others", "mean_of": ["nf4+other", "nf4+other2"]}
    row |= {"relative_wer_reduction": 0.05, "ci95": [-0.02, 0.1], "p_improvement": 0.9}

    said = own_sentence({"systems": systems, "comparisons": [row]})

    assert said.startswith("The speaker's own: `nf4+speaker` against `nf4+others`, mean of 2: 5.0 % fewer")
    assert said.endswith("no difference is shown.")
    assert own_sentence({"systems": systems, "comparisons": []}) == ""

    row["speakers"] = {"helped": 6, "harmed": 3, "unchanged": 1, "sign_test_p": 0.508}
    row["normalized"] = {key: row[key] for key in ("relative_wer_reduction", "ci95", "p_improvement", "speakers")}
    assert own_sentence({"systems": systems, "comparisons": [row]}).endswith(
        "no difference is shown. Speakers: 6 helped, 3 harmed, 1 unchanged, sign test p = 0.508. Normalised 5.0 % "
        "fewer, from 2.0 % more to 10.0 % fewer, which includes zero; speakers: 6 helped, 3 harmed, 1 unchanged, "
        "sign test p = 0.508."
    )
