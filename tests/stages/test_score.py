"""Stage 7 on decodes small enough to score by hand."""

import json
import shutil

import pytest

from pqm_plugin.errors import PqmError
from pqm_plugin.metrics.sclite import write_trn
from pqm_plugin.stages.score import own_gain, score_set

SPEAKERS = {"ann-1": "ann", "ann-2": "ann", "b-b-1": "b-b"}
REFERENCES = {"ann-1": "the cat sat", "ann-2": "mister brown", "b-b-1": "a b c d e"}
FULL = {"ann-1": "the hat sat", "ann-2": "mister brown", "b-b-1": "a b c d"}
NF4 = {"ann-1": "the hat", "ann-2": "mr brown", "b-b-1": "a b c d e f"}
META = {"corpus": "toy", "seed": 1}


def _decode(model_dir, system, hypotheses, references=REFERENCES, set_name="test", changed=None):
    folder = model_dir / f"decode_{system}" / set_name
    write_trn(folder / "ref.trn", references, SPEAKERS)
    write_trn(folder / "hyp.trn", hypotheses, SPEAKERS)
    (folder / "utt2spk").write_text("".join(f"{key} {SPEAKERS[key]}\n" for key in references))
    record = {
        "system": system,
        "set": set_name,
        "utterances": len(references),
        "rtf": 0.5,
        "peak_rss_bytes": 1000,
        "model_bytes": 800,
        "adapter_bytes": 0,
        "adapter_fraction": 0.0,
    }
    (folder / "run.json").write_text(json.dumps(record | (changed or {})))
    return folder


def _score(model_dir, **options):
    return score_set(model_dir, options.pop("decoded", "test"), META, 1, model_dir / "results.json", 200, **options)


def _speaker(utterances):
    normalized = {"words_normalized": 5, "errors_normalized": 1}
    return {"utterances": utterances, "words": 5, "errors": 1, "wer": 0.2, **normalized}


def test_words_are_counted_for_each_speaker_and_in_total(tmp_path):
    _decode(tmp_path, "full", FULL)

    system = _score(tmp_path)["systems"]["full"]

    assert (system["utterances"], system["words"], system["errors"], system["wer"]) == (3, 10, 2, 0.2)
    assert system["speakers"] == {
        "ann": _speaker(utterances=2),
        "b-b": _speaker(utterances=1),
    }
    # 11 + 12 + 9 characters, blanks included; one is substituted and two ("<blank>e") are lost.
    assert system["cer"] == 3 / 32
    assert system["wer_ci95"] == pytest.approx([0.2, 0.2], abs=0.2)


def test_the_normaliser_takes_the_credit_for_format_away(tmp_path):
    _decode(tmp_path, "nf4", NF4)

    system = _score(tmp_path)["systems"]["nf4"]

    assert system["wer"] == 4 / 10
    assert system["wer_normalized"] == 3 / 10


def test_results_have_the_keys_of_the_design_and_the_fixed_order(tmp_path):
    for name in ("nf4+speaker", "full", "nf4", "nf4+zzz", "espnet", "nf4+sat", "full+sat"):
        _decode(tmp_path, name, FULL)

    results = _score(tmp_path)

    assert list(results) == ["meta", "systems", "comparisons", "gain_split", "quantization"]
    assert list(results["systems"]) == ["espnet", "full", "full+sat", "nf4", "nf4+sat", "nf4+speaker", "nf4+zzz"]
    assert list(results["systems"]["nf4"]) == [
        *("utterances", "words", "errors", "wer", "wer_ci95", "words_normalized", "errors_normalized"),
        *("wer_normalized", "wer_normalized_ci95", "cer"),
        *("model_bytes", "adapter_bytes", "adapter_fraction", "rtf", "peak_rss_bytes", "speakers"),
    ]
    assert list(results["comparisons"][0]) == [
        *("system", "against", "relative_wer_reduction", "ci95", "p_improvement", "speakers", "normalized"),
    ]
    assert json.loads((tmp_path / "results.json").read_text()) == results


def test_every_system_is_compared_with_full_and_nf4_and_the_speakers_adapter_with_its_controls(tmp_path):
    for name in ("full", "nf4", "nf4+sat", "nf4+speaker", "nf4+other"):
        _decode(tmp_path, name, NF4 if name == "nf4" else FULL)

    comparisons = _score(tmp_path)["comparisons"]

    assert [(row["system"], row["against"]) for row in comparisons] == [
        *((system, "full") for system in ("nf4", "nf4+sat", "nf4+speaker", "nf4+other")),
        *((system, "nf4") for system in ("full", "nf4+sat", "nf4+speaker", "nf4+other")),
        ("nf4+speaker", "nf4+sat"),
        ("nf4+speaker", "nf4+other"),
    ]
    assert comparisons[0]["relative_wer_reduction"] == -1  # 4 errors instead of 2
    equal = {"relative_wer_reduction": 0, "ci95": [0, 0], "p_improvement": 0.5}
    nobody = {"helped": 0, "harmed": 0, "unchanged": 2, "sign_test_p": None}
    both = equal | {"speakers": nobody}
    last = {"system": "nf4+speaker", "against": "nf4+other", **both, "normalized": both}
    assert comparisons[-1] == last
    assert comparisons[0]["speakers"]["harmed"] > 0


def test_ones_own_adapter_is_compared_with_the_mean_of_all_others(tmp_path):
    # Errors 4 by nf4, 2 and 0 by the others' adapters, 0 by one's own: the mean of the others is 1.
    for name, words in (("nf4", NF4), ("nf4+other", FULL), ("nf4+other2", REFERENCES), ("nf4+speaker", REFERENCES)):
        _decode(tmp_path, name, words)

    results = _score(tmp_path)

    row = results["comparisons"][-1]
    assert (row["system"], row["against"], row["mean_of"]) == ("nf4+speaker", "nf4+others", ["nf4+other", "nf4+other2"])
    assert row["relative_wer_reduction"] == 1 and row["normalized"]["relative_wer_reduction"] == 1
    assert row["speakers"] == {"helped": 2, "harmed": 0, "unchanged": 0, "sign_test_p": 0.5}
    assert row["normalized"]["speakers"] == row["speakers"]
    split = {entry["part"]: entry for entry in results["gain_split"]}
    assert {part: entry["of_errors"] for part, entry in split.items()} == {"anyone": 0.75, "own": 0.25, "whole": 1}
    # Normalised nf4 makes 3 errors, and the others' mean is still 1.
    assert split["anyone"]["normalized"]["of_errors"] == pytest.approx(2 / 3)
    assert split["whole"]["ci95"] == [1, 1]


def test_with_one_other_speaker_or_none_there_is_no_mean_of_others(tmp_path):
    _decode(tmp_path, "nf4", NF4)
    _decode(tmp_path, "nf4+speaker", REFERENCES)
    assert _score(tmp_path)["gain_split"] == []

    _decode(tmp_path, "nf4+other", FULL)
    results = _score(tmp_path)

    assert not [row for row in results["comparisons"] if row["against"] == "nf4+others"]
    assert [entry["of_errors"] for entry in results["gain_split"]] == [0.5, 0.5, 1]


def test_without_transcripts_and_without_a_speaker_are_compared_with_what_they_could_have_been(tmp_path):
    for name in ("full+sat", "full+speaker", "nf4+sat", "nf4+speaker", "nf4+speaker-unsup"):
        _decode(tmp_path, name, FULL)

    found = [(row["system"], row["against"]) for row in _score(tmp_path)["comparisons"]]

    assert {
        ("nf4+sat", "full+sat"),
        ("nf4+speaker", "full+speaker"),
        ("nf4+speaker-unsup", "nf4+sat"),
        ("nf4+speaker-unsup", "nf4+speaker"),
    } <= set(found)
    assert len(found) == len(set(found))


def test_a_format_that_was_learned_counts_for_nothing_in_the_normalised_comparison(tmp_path):
    _decode(tmp_path, "full", {name: f"{text.title()}." for name, text in REFERENCES.items()})
    _decode(tmp_path, "nf4", REFERENCES)

    [row] = [row for row in _score(tmp_path)["comparisons"] if row["against"] == "full"]

    assert row["relative_wer_reduction"] == 1
    assert row["normalized"]["relative_wer_reduction"] in (0, None)


def test_the_score_folders_hold_what_espnet_scripts_read(tmp_path):
    folder = _decode(tmp_path, "full", FULL)

    _score(tmp_path)

    assert (folder / "score_wer" / "hyp.trn").read_text().splitlines()[0] == "the hat sat\t(ann-ann-1)"
    assert (folder / "score_cer" / "hyp.trn").read_text().splitlines()[
        2
    ] == "a <space> b <space> c <space> d\t(b-b-b-b-1)"
    assert (
        "| Sum/Avg|    3     10 | 80.0   10.0   10.0    0.0   20.0   66.7 |"
        in (folder / "score_wer" / "result.txt").read_text()
    )


def test_the_same_decodes_score_to_the_same_bytes(tmp_path):
    _decode(tmp_path, "full", FULL)
    _decode(tmp_path, "nf4", NF4)

    _score(tmp_path)
    before = (tmp_path / "results.json").read_bytes()
    _score(tmp_path)

    assert (tmp_path / "results.json").read_bytes() == before


def test_a_tag_scores_the_second_decoding_setting_alone(tmp_path):
    _decode(tmp_path, "full", FULL)
    _decode(tmp_path, "full", REFERENCES, set_name="test_ctc")

    assert _score(tmp_path, decoded="test_ctc")["systems"]["full"]["errors"] == 0


def test_a_decode_that_is_not_finished_is_left_out_and_said(tmp_path, caplog):
    _decode(tmp_path, "full", FULL)
    (_decode(tmp_path, "nf4", NF4) / "run.json").unlink()

    assert list(_score(tmp_path)["systems"]) == ["full"]
    assert "decode_nf4/test is not finished" in caplog.text


def test_nothing_decoded_is_an_error_with_its_remedy(tmp_path):
    with pytest.raises(PqmError, match="nothing is decoded; run stage 6"):
        _score(tmp_path)


def test_systems_that_decoded_other_utterances_are_not_compared(tmp_path):
    _decode(tmp_path, "full", FULL)
    fewer = {key: text for key, text in REFERENCES.items() if key != "ann-2"}
    _decode(tmp_path, "nf4", {key: NF4[key] for key in fewer}, references=fewer)

    with pytest.raises(
        PqmError, match="utterance ann-2 is not among those of nf4; delete the older one and run stage 6"
    ):
        _score(tmp_path)

    assert not (tmp_path / "results.json").exists()


def test_systems_with_other_references_are_not_compared(tmp_path):
    _decode(tmp_path, "full", FULL)
    _decode(tmp_path, "nf4", NF4, references=REFERENCES | {"b-b-1": "A B C D E"})

    with pytest.raises(PqmError, match=r"utterance b-b-1 has speaker and reference \('b-b', 'A B C D E'\) here"):
        _score(tmp_path)


@pytest.mark.parametrize("run", [{"utterances": 4}, {"system": "int8"}])
def test_a_record_that_is_not_of_this_decode_is_an_error(tmp_path, run):
    _decode(tmp_path, "full", FULL, changed=run)

    with pytest.raises(PqmError, match="do not belong together"):
        _score(tmp_path)


def test_a_record_without_bytes_is_an_error_that_names_the_key(tmp_path):
    folder = _decode(tmp_path, "full", FULL)
    (folder / "run.json").write_text('{"system": "full", "utterances": 3}')

    with pytest.raises(PqmError, match="run.json lacks model_bytes, adapter_bytes"):
        _score(tmp_path)


def test_a_damaged_list_of_speakers_names_its_line(tmp_path):
    (_decode(tmp_path, "full", FULL) / "utt2spk").write_text("ann-1 ann\nann-2\n")

    with pytest.raises(PqmError, match="utt2spk:2"):
        _score(tmp_path)


def test_references_without_a_word_are_an_error_that_names_the_set(tmp_path):
    _decode(tmp_path, "full", FULL, references=dict.fromkeys(REFERENCES, ""))

    with pytest.raises(PqmError, match="decode_full/test: its 3 references hold no word"):
        _score(tmp_path)


def test_a_speaker_without_a_reference_word_has_no_rate_of_his_own(tmp_path):
    _decode(tmp_path, "full", FULL, references=REFERENCES | {"b-b-1": ""})

    system = _score(tmp_path)["systems"]["full"]

    assert system["speakers"]["b-b"] == {
        **{"utterances": 1, "words": 0, "errors": 4, "wer": None},
        **{"words_normalized": 0, "errors_normalized": 4},
    }
    assert (system["words"], system["errors"]) == (5, 5)


@pytest.mark.parametrize("recorded", [True, False])
def test_words_of_another_language_have_the_basic_normaliser_and_results_say_so(tmp_path, recorded):
    references = {key: "नमस्ते दुनिया" for key in SPEAKERS}
    heard = {"ann-1": "नमस्ते, दुनिया!", "ann-2": "नमसत दनय", "b-b-1": "नमस्ते दुनिया"}
    search = {"search": {"language": "hi"}, "family": "x"} if recorded else {}
    _decode(tmp_path, "nf4", heard, references, changed=search)

    results = _score(tmp_path, **({} if recorded else {"language": "hi"}))

    assert results["systems"]["nf4"]["wer_normalized"] == 2 / 6
    assert (results["meta"]["language"], results["meta"]["normalizer"]) == ("hi", "basic")


def test_results_in_english_say_nothing_of_the_language(tmp_path):
    _decode(tmp_path, "nf4", NF4, changed={"search": {"language": "en"}})

    assert not {"language", "normalizer"} & _score(tmp_path, language="hi")["meta"].keys()


def test_one_line_says_whether_the_speakers_own_adapters_pay(tmp_path):
    model_dir = tmp_path / "model"
    _decode(model_dir, "nf4", NF4)
    _decode(model_dir, "nf4+sat", {key: f"{text} x y" for key, text in REFERENCES.items()})
    assert own_gain(_score(model_dir)) == ""
    _decode(model_dir, "nf4+speaker", REFERENCES)
    assert "nf4+speaker against nf4+sat: +100.0 % fewer word errors" in own_gain(_score(model_dir))
    assert own_gain(_score(model_dir)).endswith("personalising pays")

    _decode(model_dir, "nf4+speaker", {key: f"{text} x y" for key, text in REFERENCES.items()})

    assert own_gain(_score(model_dir)).endswith("no gain shown, nf4+sat does as well")


def test_words_are_written_as_icefall_has_them_and_sclite_counts_where_it_is_asked(tmp_path):
    folder = _decode(tmp_path, "full", FULL)
    _decode(tmp_path, "nf4", NF4)

    results = _score(tmp_path, **({"scorer": "sclite"} if shutil.which("sctk") or shutil.which("sclite") else {}))

    lines = (folder / "score_wer/recogs-test-full.txt").read_text().splitlines()
    assert lines[:2] == ["ann-1:\tref=['the', 'cat', 'sat']", "ann-1:\thyp=['the', 'hat', 'sat']"]
    assert (folder / "score_wer/errs-test-full.txt").read_text().startswith("%WER = 20.00\nErrors: 0 insertions, 1 del")
    assert (tmp_path / "wer-summary-test.txt").read_text() == "settings\tWER\nfull\t20.00\nnf4\t40.00\n"
    if shutil.which("sctk") or shutil.which("sclite"):
        assert results["systems"]["full"]["sclite"] == {"words": 10, "errors": 2, "wer": 0.2}
        assert "SYSTEM SUMMARY PERCENTAGES" in (folder / "score_wer/result_sclite.txt").read_text()


def test_another_scorer_is_refused():
    from pqm_plugin.stages.recipe import Recipe

    with pytest.raises(PqmError, match="--scorer wer: use jiwer or sclite"):
        Recipe(scorer="wer")
