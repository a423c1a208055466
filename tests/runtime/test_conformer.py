"""A Conformer AED through ONNX Runtime writes what it writes through torch."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from espnet2.tasks.asr import ASRTask

from pqm_plugin.errors import PqmError
from pqm_plugin.models.espnet import folder as espnet_folder
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.personal import making
from pqm_plugin.personal.folder import ModelFolder
from pqm_plugin.personal.making import quantize
from pqm_plugin.personal.model import PersonalModel
from pqm_plugin.personal.opening import open_packed
from pqm_plugin.personal.options import EnrollOptions
from pqm_plugin.personal.runtime import RuntimeModel, open_hearing
from pqm_plugin.quantize.packed import WeightFormat
from pqm_plugin.runtime.conformer import RuntimeConformer
from pqm_plugin.runtime.graph import Graph
from pqm_plugin.runtime.layers import Layers
from pqm_plugin.runtime.processor import session
from pqm_plugin.runtime.tokens import espnet_words
from pqm_plugin.runtime.weights import Lora, NotHereError, PackedModel, joined, read_lora

RATE = 16000
FRONTEND = {"fs": "16k", "n_mels": 20, "hop_length": 160}


def clip(seed, length_s):
    """Sound whose loudness changes, so that frames differ."""
    random = np.random.default_rng(seed)
    n = int(RATE * length_s)
    loudness = np.repeat(random.uniform(0.0, 0.4, n // 1600 + 1), 1600)[:n]
    return (random.normal(0, 1, n) * loudness).astype(np.float32)


CLIPS = [clip(seed, length_s) for seed, length_s in enumerate((0.5, 1.3, 0.35, 0.8))]


def made(tiny, out, **changes):
    """A packed model like `tiny` with other parts, and weights by which hypotheses differ, and do end."""
    base = out / "base"
    base.mkdir(parents=True)
    config = yaml.safe_load((tiny / "config.yaml").read_text()) | changes
    (base / "config.yaml").write_text(yaml.safe_dump(config))
    if (stats := (changes.get("normalize_conf") or {}).get("stats_file")) is not None:
        shutil.copyfile(stats, base / Path(stats).name)
    torch.manual_seed(1)
    model, _ = ASRTask.build_model_from_file(base / "config.yaml", None, "cpu")
    state = model.state_dict()
    for name, tensor in state.items():
        if name.endswith(("norm.running_mean", "norm.bias")):
            tensor.normal_(0, 0.1)
        elif name.endswith("norm.running_var"):
            tensor.uniform_(0.5, 2)
    for name in ("ctc.ctc_lo.weight", "decoder.output_layer.weight", "decoder.embed.0.weight"):
        state[name] = 4 * state[name]
    state["ctc.ctc_lo.bias"][0] += 3
    state["decoder.output_layer.bias"][-1] += 1
    torch.save(state, base / "valid.acc.ave.pth")
    quantize(str(base), out / "packed")
    return out / "packed"


@pytest.fixture(scope="module")
def conformer(tiny_conformer, tmp_path_factory):
    return made(tiny_conformer, tmp_path_factory.mktemp("runtime"))


def both(folder, search):
    search = replace(search, guard="never" if search.guard == "auto" else search.guard)
    return open_packed(ModelFolder(folder), search).recognizer, RuntimeConformer(folder, search)


def heard(recognizer, clips):
    with torch.no_grad():
        return recognizer.recognize(clips)


def same(found, expected):
    assert [(one.text, one.n_tokens, one.is_repaired) for one in found] == [
        (one.text, one.n_tokens, one.is_repaired) for one in expected
    ]
    assert [one.score for one in found] == pytest.approx([one.score for one in expected], abs=1e-3)


@pytest.mark.parametrize(
    "options",
    [{"beam_size": beam, "ctc_weight": weight} for beam in (1, 3, 10) for weight in (0.0, 0.3, 0.7, 1.0)]
    + [
        {"beam_size": 3, "ctc_weight": 0.3, "length_bonus": 1.5},
        {"beam_size": 3, "ctc_weight": 1.0, "length_bonus": -0.5},
        {"beam_size": 3, "ctc_weight": 0.5, "max_length_ratio": 0.3},
        {"beam_size": 3, "ctc_weight": 0.0, "max_length_ratio": -4.0},
        {"beam_size": 3, "ctc_weight": 0.5, "max_length_ratio": -90.0},
        {"beam_size": 30, "ctc_weight": 0.5, "max_length_ratio": 0.5},
    ],
    ids=str,
)
def test_words_and_scores_are_those_of_torch_alone_and_in_a_batch(conformer, options):
    by_torch, runtime = both(conformer, SearchOptions(**options))

    expected = heard(by_torch, CLIPS)

    assert len({one.text for one in expected}) > 1 or options["beam_size"] == 1 or not options["ctc_weight"]
    same(runtime.recognize(CLIPS), expected)
    same([runtime.recognize([each])[0] for each in CLIPS], expected)


@pytest.mark.slow
def test_long_speech_moves_the_window_of_the_ctc_layer_as_with_torch(conformer):
    by_torch, runtime = both(conformer, SearchOptions(beam_size=4, ctc_weight=0.7))
    clips = [clip(1, 14), clip(2, 6)]

    same(runtime.recognize(clips), heard(by_torch, clips))


@pytest.mark.parametrize("guard", ["always", "never"])
def test_a_loop_gives_way_to_the_words_of_the_best_path_as_with_torch(conformer, guard):
    search = SearchOptions(beam_size=2, ctc_weight=0.1, guard=guard, compression_ratio_threshold=1.0, length_bonus=3.0)
    by_torch, runtime = both(conformer, search)

    found = runtime.recognize(CLIPS)

    same(found, heard(by_torch, CLIPS))
    assert any(one.is_repaired for one in found) == (guard == "always")


def test_what_is_too_short_has_no_words_and_changes_none_of_others(conformer):
    by_torch, runtime = both(conformer, SearchOptions(beam_size=3))
    clips = [clip(9, 0.02), CLIPS[0], clip(8, 0.06)]

    found = runtime.recognize(clips)

    same(found, heard(by_torch, clips))
    assert found[0].text == "" and found[1] == runtime.recognize(clips[1:2])[0]
    same(runtime.recognize(clips[:1]), heard(by_torch, clips[:1]))


MAKES = [
    {"encoder_conf": {"input_layer": name, "macaron_style": macaron, "activation_type": kind}}
    for name, macaron, kind in (
        *(
            ("conv2d1", True, "swish"),
            ("conv2d2", False, "relu"),
            ("conv2d6", True, "relu"),
            ("conv2d8", False, "swish"),
        ),
    )
] + [
    {"encoder_conf": {"use_cnn_module": False, "num_blocks": 2}, "decoder_conf": {"num_blocks": 2}},
    {"encoder_conf": {"interctc_layer_idx": [1], "num_blocks": 2, "cnn_module_kernel": 3}},
    {"decoder_conf": {"attention_heads": 3}},
]


@pytest.mark.parametrize("make", MAKES, ids=str)
def test_every_make_that_has_graphs_is_computed_as_torch_computes_it(tiny_conformer, tmp_path, make):
    own = yaml.safe_load((tiny_conformer / "config.yaml").read_text())
    changes = {name: {**own[name], **conf} for name, conf in make.items()}
    by_torch, runtime = both(made(tiny_conformer, tmp_path, **changes), SearchOptions(beam_size=3))

    same(runtime.recognize(CLIPS), heard(by_torch, CLIPS))


@pytest.mark.parametrize("form", [WeightFormat("nf4", 256), WeightFormat("nf4", 32, double_quantize=False)], ids=str)
def test_blocks_of_other_sizes_are_computed_as_torch_computes_them(tiny_conformer, tmp_path, monkeypatch, form):
    monkeypatch.setattr(making, "_FORMAT", form)
    by_torch, runtime = both(made(tiny_conformer, tmp_path), SearchOptions(beam_size=3))

    same(runtime.recognize(CLIPS), heard(by_torch, CLIPS))


@pytest.mark.parametrize(
    "changes",
    [
        {"frontend_conf": {**FRONTEND, "win_length": 400, "window": "hamming", "n_fft": 1024}},
        {"frontend_conf": {**FRONTEND, "window": "blackman", "center": False, "normalized": True}},
        {"frontend_conf": {**FRONTEND, "window": None, "fmin": 100, "fmax": 7000, "htk": True}},
        {"normalize_conf": {"norm_means": True, "norm_vars": True}},
        {"normalize_conf": {"norm_means": False, "norm_vars": True}},
        {"normalize": None},
        {"normalize": "global_mvn", "normalize_conf": {"stats_file": "feats_stats.npz"}},
        {"normalize": "global_mvn", "normalize_conf": {"stats_file": "feats_stats.npz", "norm_vars": False}},
    ],
    ids=str,
)
def test_features_are_those_of_espnet(tiny_conformer, tmp_path, monkeypatch, changes):
    random = np.random.default_rng(0)
    total = random.normal(0, 100, 20)
    np.savez(tmp_path / "feats_stats.npz", count=50, sum=total, sum_square=total**2 / 50 + random.uniform(50, 90, 20))
    monkeypatch.chdir(tmp_path)
    by_torch, runtime = both(made(tiny_conformer, tmp_path / "model", **changes), SearchOptions())

    for audio in (*CLIPS, np.zeros(3200, np.float32)):
        found, expected = runtime._mel(audio), by_torch.features(audio).numpy()

        assert found.dtype == np.float32 and found.shape == expected.shape
        assert np.abs(found - expected).max() < 2e-3


@pytest.mark.slow
@pytest.mark.parametrize(("targets", "ctc_weight"), [("attention", 0.5), ("all_linear", 0.5), ("attention", 1.0)])
def test_each_row_has_its_own_adapter(conformer, tmp_path, targets, ctc_weight):
    folder = Path(shutil.copytree(conformer, tmp_path / "model"))
    search = SearchOptions(beam_size=3, ctc_weight=ctc_weight, guard="never")
    teacher = PersonalModel(folder, search)
    options = EnrollOptions(epochs=1, few_epochs=1, targets=targets, learning_rate=0.05)
    for seed, name in enumerate(("anna", "bert")):
        teacher.enroll(name, [clip(seed, 1)], ["GO ON" if seed else "STOP"], options=replace(options, rank=2 + seed))
    runtime = RuntimeConformer(folder, search)
    adapters = {name: read_lora(folder / "speakers" / name, ModelFolder(folder).intact()) for name in ("anna", "bert")}

    apart = {name: runtime.recognize(CLIPS[:1], [adapters[name]])[0] for name in adapters}
    together = runtime.recognize([CLIPS[0], CLIPS[1], CLIPS[0]], [adapters["anna"], adapters["bert"], adapters["bert"]])

    same([together[0], together[2]], list(apart.values()))
    for name, found in apart.items():
        expected = teacher.search(CLIPS[:1], [folder / "speakers" / name], "en")
        same([found], expected)
    assert len({one.score for one in (*apart.values(), *runtime.recognize(CLIPS[:1]))}) == 3
    same(runtime.recognize(CLIPS[:1]), RuntimeConformer(folder, search).recognize(CLIPS[:1]))


def test_tokens_are_written_as_espnet_writes_them(tmp_path):
    import sentencepiece
    from espnet2.text.build_tokenizer import build_tokenizer

    text = tmp_path / "text"
    text.write_text("GO ON THEN\nSTOP THE GRÜSSE NOW\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "bpe"), vocab_size=30, model_type="bpe", minloglevel=2
    )
    model = str(tmp_path / "bpe.model")
    for kind, tokens in (
        ("bpe", ["▁GO", "▁ON", "<unk>", "T", "H"]),
        ("char", ["G", "O", "<space>", "<space>", "ß"]),
        ("word", ["go", "on"]),
    ):
        expected = build_tokenizer(kind, bpemodel=model).tokens2text(tokens)

        assert espnet_words({"token_type": kind, "bpemodel": model})(tokens) == expected
    (tmp_path / "bpe.model").write_bytes(b"none")
    with pytest.raises(PqmError, match=r"bpe.model cannot be read \(.*\): take it from where"):
        espnet_words({"token_type": "bpe", "bpemodel": model})


def test_products_from_four_bits_are_those_of_the_unpacked_weights(conformer):
    model = PackedModel(conformer / "model.safetensors")
    names = ["encoder.encoders.0.feed_forward.w_1", "encoder.encoders.0.feed_forward.w_2"]
    for name in (*names, "ctc.ctc_lo"):
        weight = model.packed(name)
        graph = Graph()
        x = graph.input("x", ["rows", weight.shape[1]])
        graph.output(Layers(graph, model, {})._in_four_bits(x, weight), "y", ["rows", weight.shape[0]])
        rows = np.random.default_rng(0).normal(size=(5, weight.shape[1])).astype(np.float32)

        [found] = session(graph.serialized(), 1).run(None, {"x": rows})

        assert np.abs(found - rows @ weight.unpack().T).max() < 1e-5
    both_ways = joined([model.packed(name) for name in names[:1] * 2])
    assert both_ways is not None
    assert np.array_equal(both_ways.unpack(), np.concatenate([model.packed(names[0]).unpack()] * 2))
    # A block of 64 would span 30 * 24 weights and what follows.
    assert joined([model.packed("ctc.ctc_lo")] * 2) is None
    assert joined([model.packed(names[0]), model.packed(names[0]).unpack()]) is None


def test_a_model_hears_the_same_with_either(conformer):
    search = SearchOptions(beam_size=2)
    recording = np.concatenate([clip(3, 2), np.zeros(RATE, np.float32), clip(4, 1)])

    found = RuntimeModel(conformer, search).transcribe(recording)
    expected = PersonalModel(conformer, search).transcribe(recording)

    assert [(one.start_s, one.end_s, one.text) for one in found.segments] == [
        (one.start_s, one.end_s, one.text) for one in expected.segments
    ]


def changed(folder, tmp_path, changes):
    """The model with other values in its configuration; a name with a dot is of a section."""
    out = Path(shutil.copytree(folder, tmp_path / "changed"))
    config = yaml.safe_load((out / "config.yaml").read_text())
    for name, value in changes.items():
        section, _, key = name.rpartition(".")
        (config[section] if section else config)[key] = value
    (out / "config.yaml").write_text(yaml.safe_dump(config))
    return out


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"encoder": "e_branchformer", "encoder_conf": {}}, "encoder e_branchformer"),
        ({"decoder": "rnn", "decoder_conf": {}}, "decoder rnn"),
        ({"encoder_conf.rel_pos_type": "legacy"}, "encoder_conf with rel_pos_type legacy"),
        ({"encoder_conf.normalize_before": False}, "encoder_conf with normalize_before False"),
        ({"encoder_conf.activation_type": "tanh"}, "encoder_conf with activation_type tanh"),
        ({"encoder_conf.something": 1}, "encoder_conf with something"),
        ({"encoder_conf.output_size": "24"}, "encoder_conf.output_size 24"),
        ({"decoder_conf.concat_after": True}, "decoder_conf with concat_after True"),
        ({"frontend": "s3prl"}, "frontend s3prl"),
        ({"frontend_conf.window": "kaiser"}, "a frontend with window kaiser"),
        ({"frontend_conf.hop_length": 1}, "hop_length 1"),
        ({"frontend_conf.frontend_conf": {"use_wpe": True}}, "a frontend that removes noise"),
        ({"normalize": "other"}, "normalize other"),
        ({"preencoder": "sinc"}, "preencoder sinc"),
        ({"token_type": "phn"}, "tokens of type phn"),
        ({"model_conf.sym_blank": "Z"}, "a blank that is not the first token"),
        ({"model_conf.sym_eos": "Z"}, "a start that is another token than the end"),
    ],
    ids=str,
)
def test_what_the_graphs_do_not_have_is_said_in_a_line(conformer, tmp_path, changes, why):
    with pytest.raises(PqmError, match=f"ONNX Runtime cannot compute it here .no graphs for .*{why}") as caught:
        open_hearing(changed(conformer, tmp_path, changes), runtime="onnx")
    assert "\n" not in str(caught.value)


def test_a_model_without_graphs_is_left_to_torch_and_the_log_says_why(tiny_conformer, tmp_path, caplog):
    caplog.set_level("INFO")
    own = yaml.safe_load((tiny_conformer / "config.yaml").read_text())
    folder = made(tiny_conformer, tmp_path, encoder_conf={**own["encoder_conf"], "activation_type": "tanh"})

    found = open_hearing(folder, SearchOptions(beam_size=2))

    assert isinstance(found, PersonalModel)
    assert f"torch computes {folder}: no graphs for encoder_conf with activation_type tanh" in caplog.text
    assert isinstance(found.transcribe(CLIPS[0]).text, str)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"encoder_conf.output_size": 32}, "has a weight of shape"),
        ({"encoder_conf.num_blocks": 2}, "missing"),
        ({"decoder_conf.linear_units": 10**9}, "has a weight of shape"),
        ({"frontend_conf.n_fft": 2**30}, "has shape"),
        ({"token_list": ["<blank>", "<unk>", "<sos/eos>"]}, "has a weight of shape"),
        ({"encoder_conf.macaron_style": False}, "unknown"),
        ({"normalize": "global_mvn", "normalize_conf": {}}, "missing normalize.mean"),
    ],
    ids=str,
)
def test_a_configuration_that_is_not_of_these_weights_is_one_line(conformer, tmp_path, changes, why):
    with pytest.raises(PqmError, match=why) as caught:
        open_hearing(changed(conformer, tmp_path, changes), runtime="onnx")
    assert not isinstance(caught.value, NotHereError) and "\n" not in str(caught.value)


def test_a_configuration_that_names_files_elsewhere_is_refused(conformer, tmp_path):
    folder = changed(conformer, tmp_path, {"token_type": "bpe", "bpemodel": "/etc/hostname"})

    with pytest.raises(PqmError, match="its configuration names '/etc/hostname', which is outside of it"):
        open_hearing(folder)


def test_an_adapter_on_layers_without_graphs_is_one_line(conformer, tmp_path):
    runtime = RuntimeConformer(conformer, SearchOptions())
    adapter = Lora({"encoder.embed.conv.0": (np.zeros((2, 1, 3, 3), np.float32), np.zeros((24, 2, 1, 1), np.float32))})

    with pytest.raises(PqmError, match=r"layer 'encoder.embed.conv.0', which the graphs here do not adapt: use --runt"):
        runtime.recognize(CLIPS[:1], [adapter])


def test_the_configuration_is_read_without_torch_and_as_before(tiny_conformer):
    config = espnet_folder.read_config(tiny_conformer)

    assert config == yaml.safe_load((tiny_conformer / "config.yaml").read_text())
    assert espnet_folder.facts_of(config) == espnet_folder.facts(tiny_conformer)
