"""The batched search finds what ESPnet's own finds, whatever the weights, penalties, lengths and companions."""

import logging

import numpy as np
import pytest
import soundfile
import torch
import yaml
from espnet2.bin.asr_inference import Speech2Text
from espnet2.tasks.asr import ASRTask

from pqm_plugin.adapters.bank import AdapterBank
from pqm_plugin.adapters.files import AdapterInfo, save_adapter
from pqm_plugin.adapters.lora import attach
from pqm_plugin.errors import PqmError
from pqm_plugin.models.espnet import folder as espnet_folder
from pqm_plugin.models.espnet import library as espnet_library
from pqm_plugin.models.families import family_of
from pqm_plugin.models.interface import Hypothesis
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.quantize.layers import quantize_layers
from pqm_plugin.quantize.packed import WeightFormat
from pqm_plugin.words import parse_words

N_REAL = 4
SAME_SCORE = 1e-4


def stock(folder, search, dtype="float32"):
    """ESPnet's Speech2Text over the weights in `folder`, as its own users would make it."""
    with espnet_folder.config_file(folder) as config:
        return Speech2Text(
            str(config),
            str(espnet_folder.weights_file(folder)),
            beam_size=search.beam_size,
            ctc_weight=search.ctc_weight,
            penalty=search.length_bonus,
            maxlenratio=search.max_length_ratio,
            dtype=dtype,
        )


def clip(seed, length_s):
    """Sound whose loudness and colour change, so that frames differ."""
    random = np.random.default_rng(seed)
    n = int(16000 * length_s)
    loudness = np.repeat(random.uniform(0.0, 0.4, n // 1600 + 1), 1600)[:n]
    return (random.normal(0, 1, n) * loudness).astype(np.float32)


CLIPS = [clip(seed, length_s) for seed, length_s in enumerate((0.5, 0.8, 0.35))]


@pytest.fixture(scope="module")
def sharp_conformer(tiny_conformer, tmp_path_factory):
    """A tiny Conformer with larger weights: hypotheses that differ in their scores, and do end."""
    folder = tmp_path_factory.mktemp("sharp")
    for path in tiny_conformer.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = folder / "valid.acc.ave.pth"
    state = torch.load(weights, weights_only=True)
    for name in ("ctc.ctc_lo.weight", "decoder.output_layer.weight", "decoder.embed.0.weight"):
        state[name] = 4 * state[name]
    state["ctc.ctc_lo.bias"][0] += 3
    state["decoder.output_layer.bias"][-1] += 3
    torch.save(state, weights)
    return folder


@pytest.mark.parametrize(
    "options",
    [{"beam_size": beam, "ctc_weight": weight} for beam in (1, 3, 10) for weight in (0.0, 0.3, 0.5, 1.0)]
    + [
        {"beam_size": 3, "ctc_weight": 0.3, "length_bonus": 1.5},
        {"beam_size": 3, "ctc_weight": 1.0, "length_bonus": -0.5},
        {"beam_size": 3, "ctc_weight": 0.5, "max_length_ratio": 0.3},
        {"beam_size": 3, "ctc_weight": 0.0, "max_length_ratio": -4.0},
        {"beam_size": 30, "ctc_weight": 0.5, "max_length_ratio": 0.5},
    ],
    ids=str,
)
def test_words_and_scores_are_those_of_espnet(sharp_conformer, options):
    search = SearchOptions(**options)
    theirs = [stock(sharp_conformer, search)(audio)[0] for audio in CLIPS]

    found = family_of(sharp_conformer).load_float(sharp_conformer, search, "cpu").recognize(CLIPS)

    assert [one.text for one in found] == [text for text, *_ in theirs]
    assert [one.score for one in found] == pytest.approx([float(best.score) for *_, best in theirs], abs=1e-4)
    assert [one.n_tokens for one in found] == [len(best.yseq) - 2 for *_, best in theirs]


DECODERS = [
    {"normalize_before": False},
    {"concat_after": True},
    {"qk_norm": True, "num_blocks": 2},
    {"use_sdpa": True, "normalize_before": False, "concat_after": True},
]


def rebuilt(folder, out, **changes):
    """Write a model like that in `folder` with other parts and random weights."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    out.mkdir()
    (out / "config.yaml").write_text(yaml.safe_dump(config | changes))
    (out / "tokens.txt").write_text((folder / "tokens.txt").read_text())
    torch.manual_seed(1)
    model, _ = ASRTask.build_model_from_file(out / "config.yaml", None, "cpu")
    torch.save(model.state_dict(), out / "valid.acc.ave.pth")
    return out


@pytest.mark.parametrize("conf", DECODERS, ids=str)
def test_every_make_of_transformer_decoder_scores_as_espnet_does(tiny_conformer, tmp_path, caplog, conf):
    folder = rebuilt(
        tiny_conformer,
        tmp_path / "model",
        decoder_conf={"attention_heads": 2, "linear_units": 24, "num_blocks": 1, **conf},
    )
    search = SearchOptions(beam_size=3, max_length_ratio=-5.0)
    _, _, _, theirs = stock(folder, search)(CLIPS[0])[0]

    found = family_of(folder).load_float(folder, search, "cpu").recognize(CLIPS[:1])

    assert found[0].score == pytest.approx(float(theirs.score), abs=1e-4)
    assert "ESPnet's own search" not in caplog.text


def test_a_batch_changes_no_words_not_even_one_with_a_clip_too_short_to_hear(sharp_conformer):
    recognizer = family_of(sharp_conformer).load_float(sharp_conformer, SearchOptions(beam_size=3), "cpu")
    clips = [CLIPS[0], clip(9, 0.02), CLIPS[1], CLIPS[2]]

    together = recognizer.recognize(clips)
    alone = [recognizer.recognize([audio])[0] for audio in clips]

    assert recognizer.max_batch == SearchOptions().batch_size
    assert [one.text for one in together] == [one.text for one in alone]
    assert [one.score for one in together] == pytest.approx([one.score for one in alone], abs=1e-4)
    assert (together[1].text, together[1].score, together[1].n_tokens) == ("", 0.0, 0)


@pytest.mark.parametrize("preset", ["attention", "all_linear"])
def test_each_row_of_a_batch_is_searched_with_its_own_adapter(sharp_conformer, tmp_path, preset):
    search = SearchOptions(beam_size=3, max_length_ratio=-6.0)
    folders = [saved_adapter(sharp_conformer, search, tmp_path / f"speaker{seed}", preset, seed) for seed in (1, 2)]
    recognizer = family_of(sharp_conformer).load_float(sharp_conformer, search, "cpu")
    without = recognizer.recognize([CLIPS[0]])
    bank = AdapterBank(recognizer.network, "abc")

    with bank.rows([folders[0], folders[1], folders[0]]):
        together = recognizer.recognize([CLIPS[0], CLIPS[0], CLIPS[1]])
    alone = []
    for folder, audio in zip([folders[0], folders[1], folders[0]], [CLIPS[0], CLIPS[0], CLIPS[1]], strict=True):
        with bank.rows([folder]):
            alone += recognizer.recognize([audio])

    assert [one.text for one in together] == [one.text for one in alone]
    assert [one.score for one in together] == pytest.approx([one.score for one in alone], abs=1e-4)
    assert len({together[0].score, together[1].score, without[0].score}) == 3


def test_more_adapters_than_trial_rows_leave_the_encoder_its_fast_attention(sharp_conformer, tmp_path, caplog):
    search = SearchOptions(beam_size=3, max_length_ratio=-6.0)
    folders = [saved_adapter(sharp_conformer, search, tmp_path / f"{n}", "attention", n) for n in (1, 2, 3)]
    recognizer = family_of(sharp_conformer).load_float(sharp_conformer, search, "cpu")

    assert recognizer.max_batch > len(folders)
    with AdapterBank(recognizer.network, "abc").rows(folders):
        recognizer.recognize(CLIPS)

    assert "ESPnet's own attention" not in caplog.text


def test_a_trial_whose_only_hypothesis_ends_at_once_is_no_reason_to_let_espnet_search(sharp_conformer, caplog):
    recognizer = family_of(sharp_conformer).load_float(sharp_conformer, SearchOptions(beam_size=1), "cpu")

    assert recognizer.max_batch > 1
    assert "ESPnet's own search" not in caplog.text


def saved_adapter(folder, search, out, preset, seed):
    recognizer = family_of(folder).load_float(folder, search, "cpu")
    model = attach(recognizer.network, recognizer.adapter_targets(preset), rank=2, alpha=4.0, dropout=0.0)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_" in name:
                value.normal_(0, 0.3)
    save_adapter(out, model, AdapterInfo("abc", "ada", 1, 100, 3))
    return out


def lose_a_name(made):
    layer = made.asr_model.decoder.decoders[0]
    layer._modules["norm_two"] = layer._modules.pop("norm2")


def normalise_scores(made):
    made.beam_search.normalize_length = True


def compute_otherwise(made):
    layer = made.asr_model.decoder.decoders[0]
    layer.register_forward_hook(lambda _, __, outputs: (-outputs[0], *outputs[1:]))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lose_a_name, "no DecoderLayer.norm2"),
        (normalise_scores, "its search has normalize_length True"),
        (compute_otherwise, "a trial gave scores that differ"),
    ],
)
def test_an_espnet_that_is_not_what_it_was_searches_itself_and_the_log_says_why(
    tiny_conformer, monkeypatch, caplog, change, reason
):
    def changed(*args, **options):
        made = Speech2Text(*args, **options)
        change(made)
        return made

    weights = family_of(tiny_conformer).load_float(tiny_conformer, SearchOptions(), "cpu").network.state_dict()
    monkeypatch.setattr(espnet_library, "Speech2Text", changed)

    recognizer = family_of(tiny_conformer).load_skeleton(tiny_conformer, SearchOptions(beam_size=2), "cpu")
    recognizer.network.load_state_dict(weights, strict=False)

    assert recognizer.max_batch == 1
    said = [record for record in caplog.records if "ESPnet's own search" in record.message]
    assert len(said) == 1
    assert said[0].levelno == logging.WARNING
    assert reason in said[0].message


def test_what_memory_held_before_the_weights_came_does_not_decide_how_a_model_is_searched(tiny_conformer, caplog):
    family, options = family_of(tiny_conformer), SearchOptions(beam_size=2)
    weights = family.load_float(tiny_conformer, options, "cpu").network.state_dict()
    recognizer = family.load_skeleton(tiny_conformer, options, "cpu")
    with torch.no_grad():
        for parameter in recognizer.network.parameters():
            parameter.fill_(float("nan"))

    recognizer.network.load_state_dict(weights)

    assert recognizer.max_batch == options.batch_size
    assert "ESPnet's own search" not in caplog.text


@pytest.mark.parametrize("mode", ["exact", "small"])
def test_a_packed_model_is_searched_in_batches_in_every_mode(tiny_conformer, mode, caplog):
    recognizer = family_of(tiny_conformer).load_float(tiny_conformer, SearchOptions(beam_size=2), "cpu")
    quantize_layers(recognizer.network, list(recognizer.layer_kinds()), WeightFormat(), mode)

    assert recognizer.max_batch > 1
    assert "ESPnet's own search" not in caplog.text


def test_a_decoder_of_another_kind_is_searched_by_espnet(tiny_conformer, tmp_path, caplog):
    folder = rebuilt(
        tiny_conformer, tmp_path / "model", decoder="rnn", decoder_conf={"num_layers": 1, "hidden_size": 24}
    )
    search = SearchOptions(beam_size=2, max_length_ratio=-4.0)
    text, _, _, best = stock(folder, search)(CLIPS[0])[0]

    found = family_of(folder).load_float(folder, search, "cpu").recognize(CLIPS[:1])

    assert found == [Hypothesis(text, float(best.score), len(best.yseq) - 2)]
    assert "ESPnet's own search" in caplog.text


def test_an_encoder_that_hears_the_padding_of_a_batch_gets_one_clip_at_a_time(tiny_conformer, monkeypatch, caplog):
    from espnet2.legacy.nets.pytorch_backend.conformer import convolution

    monkeypatch.setattr(convolution, "mask_padded_frames", lambda x, mask: x)

    recognizer = family_of(tiny_conformer).load_float(tiny_conformer, SearchOptions(beam_size=2), "cpu")

    assert recognizer.max_batch == 1
    assert "depends on padding" in caplog.text


@pytest.mark.real
@pytest.mark.slow
def test_real_speech_is_heard_as_espnet_hears_it(shared):
    base = shared / "models" / "conformer_small"
    files = sorted((shared / "data/LibriSpeech/dev-clean/2035").rglob("*.flac"), key=lambda path: path.stat().st_size)
    # The longest is longer than the window of ESPnet's CTC scores.
    clips = [soundfile.read(path, dtype="float32")[0] for path in (*files[: N_REAL - 1], files[-1])]
    search = SearchOptions(beam_size=10)
    single = stock(base, search)
    theirs = [single(audio)[0] for audio in clips]

    found = family_of(base).load_float(base, search, "cpu").recognize(clips)

    assert [one.text for one in found] == [text for text, *_ in theirs]
    # In float32 the score of a long utterance is itself more than 1e-4 from what the same sums give in float64.
    exact = stock(base, search, "float64")
    for ours, (_, _, _, best), audio in zip(found, theirs, clips, strict=True):
        if abs(ours.score - float(best.score)) > SAME_SCORE:
            sums = float(exact(audio)[0][3].score)
            assert abs(ours.score - sums) < abs(float(best.score) - sums) + SAME_SCORE


def test_words_of_ones_own_are_expected_in_each_row_by_itself(sharp_conformer):
    search = SearchOptions(beam_size=3, words_weight=10)
    recognizer = family_of(sharp_conformer).load_float(sharp_conformer, search, "cpu")
    lists = [parse_words(["zqx\t10"], "one"), None, parse_words(["J'V\t10"], "two")]

    plain, told = recognizer.recognize(CLIPS), recognizer.recognize(CLIPS, lists)

    assert "ZQX" in told[0].text
    assert told[1].text == plain[1].text
    assert told[1].score == pytest.approx(plain[1].score, abs=1e-4)
    assert "J'V" in told[2].text
    assert [recognizer.recognize([audio], [one])[0].text for audio, one in zip(CLIPS, lists, strict=True)] == [
        one.text for one in told
    ]


@pytest.mark.parametrize("ratio", [0.0, -4.0])
def test_the_score_of_words_that_are_expected_is_the_models_own(sharp_conformer, ratio):
    search = SearchOptions(beam_size=30, max_length_ratio=ratio)
    recognizer = family_of(sharp_conformer).load_float(sharp_conformer, search, "cpu")
    [plain] = recognizer.recognize(CLIPS[:1])
    words = parse_words([word + "\t0.01" for word in plain.text.split()], "its own")

    [told] = recognizer.recognize(CLIPS[:1], [words])

    assert told.text == plain.text
    assert told.score == pytest.approx(plain.score, abs=1e-4)


def test_where_espnets_own_search_is_used_words_are_refused(sharp_conformer, monkeypatch):
    recognizer = family_of(sharp_conformer).load_float(sharp_conformer, SearchOptions(beam_size=2), "cpu")
    monkeypatch.setattr(recognizer, "_batched", None, raising=False)

    with pytest.raises(PqmError, match="ESPnet's own search is used, which cannot be told words"):
        recognizer.recognize(CLIPS[:1], [parse_words(["ZQX"], "one")])
    assert recognizer.recognize(CLIPS[:1], [None])
