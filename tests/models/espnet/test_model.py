"""An ESPnet model behind the interface: every key checked, kinds and targets by name, stock words."""

import re
import shutil

import numpy as np
import pytest
import torch
import yaml

from pqm_plugin.errors import PqmError
from pqm_plugin.models.families import family_of, fetch_base
from pqm_plugin.models.options import SearchOptions

SEARCH = SearchOptions(beam_size=2, max_length_ratio=0.3)


@pytest.fixture(scope="module")
def recognizer(tiny_conformer):
    return family_of(tiny_conformer).load_float(tiny_conformer, SEARCH, "cpu")


@pytest.fixture
def copy(tiny_conformer, tmp_path):
    return shutil.copytree(tiny_conformer, tmp_path / "copy")


def noise(duration_s=1.0):
    return np.random.default_rng(0).normal(0, 0.1, int(16000 * duration_s)).astype(np.float32)


@pytest.mark.parametrize("change", ["drop", "add", "reshape"])
def test_a_checkpoint_with_missing_unknown_or_misshapen_keys_is_refused(copy, change):
    state = torch.load(copy / "valid.acc.ave.pth", weights_only=True)
    if change == "drop":
        state.pop("ctc.ctc_lo.weight")
    elif change == "add":
        state["decoder.extra"] = torch.zeros(1)
    else:
        state["ctc.ctc_lo.weight"] = torch.zeros(2, 2)
    torch.save(state, copy / "valid.acc.ave.pth")

    with pytest.raises(PqmError, match=r"valid\.acc\.ave\.pth does not fit .*(ctc_lo|extra)"):
        family_of(copy).load_float(copy, SEARCH, "cpu")


def test_a_damaged_checkpoint_and_one_that_would_run_code_are_refused(copy):
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    torch.save({"x": Evil()}, copy / "valid.acc.ave.pth")
    with pytest.raises(PqmError, match="damaged or not a plain checkpoint"):
        family_of(copy).load_float(copy, SEARCH, "cpu")
    (copy / "valid.acc.ave.pth").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(PqmError, match="damaged or not a plain checkpoint"):
        family_of(copy).load_float(copy, SEARCH, "cpu")


def test_a_folder_without_a_model_and_a_base_that_does_not_exist_are_named(tmp_path):
    with pytest.raises(PqmError, match="holds no model of a supported family"):
        family_of(tmp_path)
    with pytest.raises(PqmError, match="no model of a supported family"):
        fetch_base(str(tmp_path / "nothing"), tmp_path / "out")


def test_every_layer_with_a_matrix_has_a_kind(recognizer):
    kinds = recognizer.layer_kinds()

    matrices = {
        name.removesuffix(".weight")
        for name, value in recognizer.network.named_parameters()
        if name.endswith(".weight") and value.dim() > 1
    }
    assert set(kinds) == matrices
    assert not any(kind.endswith("other") for kind in kinds.values())


@pytest.mark.parametrize(
    ("preset", "pattern", "count"),
    [("qv", r".*attn\.linear_[qv]", 6), ("attention", r".*attn\.linear_(q|k|v|out)", 12), ("all_linear", r".*", 20)],
)
def test_a_lora_preset_names_whole_layers(recognizer, preset, pattern, count):
    targets = recognizer.adapter_targets(preset)

    assert len(targets) == count
    assert all(re.fullmatch(pattern, name) for name in targets)
    assert not any("dropout" in name or name.startswith("ctc") for name in targets)


def test_an_unknown_preset_lists_the_known_ones(recognizer):
    with pytest.raises(PqmError, match="qv, attention, all_linear"):
        recognizer.adapter_targets("everything")


def test_the_loss_of_a_batch_is_the_sum_of_its_utterances(recognizer):
    features = [recognizer.features(noise(1.0)), recognizer.features(noise(1.0) * 0.5)]
    tokens = [recognizer.token_ids("A CAT"), recognizer.token_ids("NO")]

    with torch.no_grad():
        batch = recognizer.loss(features, tokens)
        single = [recognizer.loss([f], [t]) for f, t in zip(features, tokens, strict=True)]

    assert float(batch.total) == pytest.approx(sum(float(one.total) for one in single), rel=1e-4)
    assert batch.n_tokens == len("A CAT") + 1 + len("NO") + 1
    assert batch.n_correct == sum(one.n_correct for one in single)


@pytest.mark.parametrize("texts", [["A CAT"], ["A CAT", "NO", "GO ON"]])
def test_loss_and_gradient_are_bit_for_bit_espnets_own(recognizer, texts):
    features = [recognizer.features(noise(1.0 - 0.2 * place)) for place in range(len(texts))]
    tokens = [recognizer.token_ids(text) for text in texts]
    espnet = recognizer.network
    weight = espnet.get_parameter("encoder.encoders.0.feed_forward.w_1.weight")

    encoded, lengths = recognizer._encode(features)
    text = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=espnet.ignore_id)
    text_lengths = torch.tensor([len(row) for row in tokens])
    attention, accuracy, *_ = espnet._calc_att_loss(encoded, lengths, text, text_lengths)
    ctc, _ = espnet._calc_ctc_loss(encoded, lengths, text, text_lengths)
    expected = (espnet.ctc_weight * ctc + (1 - espnet.ctc_weight) * attention) * len(texts)
    found = recognizer.loss(features, tokens)

    assert found.total.item() == expected.item()
    assert found.n_correct / found.n_tokens == accuracy
    assert torch.equal(*(torch.autograd.grad(total, weight)[0] for total in (found.total, expected.squeeze())))


def test_the_symbols_are_what_the_tokens_spell_without_special_ones(recognizer):
    assert recognizer.facts.symbols == frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ' ")


def test_audio_that_is_too_short_to_subsample_has_no_words(recognizer):
    assert recognizer.recognize([noise(0.02)])[0].text == ""


def test_features_and_words_do_not_change_from_call_to_call(recognizer):
    assert torch.equal(recognizer.features(noise()), recognizer.features(noise()))
    assert recognizer.recognize([noise()]) == recognizer.recognize([noise()])


def test_an_experiment_folder_is_brought_with_its_paths_made_relative(copy, tmp_path):
    (copy / "feats_stats.npz").write_bytes(b"statistics")
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["normalize_conf"] = {"stats_file": "exp/asr_stats/train/feats_stats.npz"}
    (copy / "config.yaml").write_text(yaml.safe_dump(config))

    fetch_base(str(copy), tmp_path / "out")

    brought = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert brought["normalize_conf"]["stats_file"] == "feats_stats.npz"
    assert (tmp_path / "out" / "feats_stats.npz").read_bytes() == b"statistics"
    (copy / "feats_stats.npz").unlink()
    with pytest.raises(PqmError, match="feats_stats.npz, which is not there"):
        fetch_base(str(copy), tmp_path / "again")


def test_a_model_packed_by_espnet_is_unpacked(copy, tmp_path, monkeypatch):
    from espnet2.main_funcs.pack_funcs import pack

    monkeypatch.chdir(copy)
    pack({"asr_model_file": "valid.acc.ave.pth"}, {"asr_train_config": "config.yaml"}, tmp_path / "model.zip")

    fetch_base(str(tmp_path / "model.zip"), tmp_path / "out")

    assert (tmp_path / "out" / "valid.acc.ave.pth").read_bytes() == (copy / "valid.acc.ave.pth").read_bytes()
    assert family_of(tmp_path / "out").load_float(tmp_path / "out", SEARCH, "cpu").facts.sample_rate == 16000


def test_parts_of_hugging_face_are_refused_by_name(copy):
    config = copy / "config.yaml"
    config.write_text(re.sub(r"^decoder: \w+$", "decoder: hugging_face_transformers", config.read_text(), flags=re.M))

    with pytest.raises(PqmError, match="decoder hugging_face_transformers is of Hugging Face"):
        family_of(copy).load_float(copy, SEARCH, "cpu")
