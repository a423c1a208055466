"""ESPnet models beyond the Conformer: those that are claimed work from packing to a speaker, others are refused."""

import shutil

import pytest
import yaml

from pqm_plugin.commands.__main__ import main
from pqm_plugin.engine.packing import open_float
from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json
from pqm_plugin.models.espnet.folder import ENCODERS
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.personal.exchange import export
from pqm_plugin.personal.making import quantize
from pqm_plugin.personal.model import PersonalModel
from pqm_plugin.stages import run_stage
from tests.personal.conftest import TEXTS, noise
from tests.stages.conftest import tiny_recipe
from tests.tiny import make_tiny_conformer

SMALL = {"attention_heads": 2, "linear_units": 24, "num_blocks": 2, "output_size": 24}
RELATIVE = {"pos_enc_layer_type": "rel_pos", "attention_layer_type": "rel_selfattn", "rel_pos_type": "latest"}
GATED = {"cgmlp_linear_units": 32, "cgmlp_conv_kernel": 7}
BLOCKS = {"block_size": 16, "hop_size": 8, "look_ahead": 4, "init_average": True, "ctx_pos_enc": True}
CONVOLUTION = {"macaron_style": True, "use_cnn_module": True, "cnn_module_kernel": 7}
CONFIGURATIONS = {
    "transformer": SMALL,
    "branchformer": {**SMALL, **RELATIVE, **GATED, "use_attn": True, "use_cgmlp": True, "merge_method": "concat"},
    "e_branchformer": {**SMALL, **RELATIVE, **GATED, "use_ffn": True, "macaron_ffn": True, "merge_conv_kernel": 3},
    "contextual_block_conformer": {**SMALL, **CONVOLUTION, **BLOCKS},
    "contextual_block_transformer": {**SMALL, **BLOCKS},
}
SEARCH = SearchOptions(beam_size=2, guard="never")


def made(encoder, folder):
    settings = dict(CONFIGURATIONS[encoder])
    if encoder == "branchformer":
        del settings["linear_units"]
    return make_tiny_conformer(folder, encoder=encoder, encoder_conf=settings)


def test_every_encoder_that_is_known_has_a_configuration_here():
    assert {"conformer", *CONFIGURATIONS} == set(ENCODERS)


@pytest.mark.slow
@pytest.mark.parametrize("encoder", CONFIGURATIONS)
def test_it_is_packed_enrolled_and_heard_and_espnet_writes_the_same_words_of_what_is_exported(encoder, tmp_path):
    from espnet2.bin.asr_inference import Speech2Text

    base = made(encoder, tmp_path / "base")
    clips = [noise(seed).astype("float32") / 32768 for seed in range(len(TEXTS))]

    assert main(["quantize", str(base), str(tmp_path / "packed")]) == 0
    model = PersonalModel(tmp_path / "packed", SEARCH)
    targets = model.recognizer.adapter_targets("attention")
    assert sum(name.startswith("encoder.") for name in targets) == 8
    model.enroll("ada", clips, TEXTS)

    for speaker in ("", "ada"):
        export(tmp_path / "packed", tmp_path / f"out{speaker}", "espnet", speaker, plain=not speaker)
        theirs = Speech2Text(
            tmp_path / f"out{speaker}/config.yaml",
            tmp_path / f"out{speaker}/valid.acc.ave.pth",
            beam_size=2,
            ctc_weight=SEARCH.ctc_weight,
        )
        adapter = model.folder.known_speaker(speaker) if speaker else None
        ours = [model.search([clip], [adapter], "en")[0].text for clip in clips[:2]]
        assert ours == [theirs(clip)[0][0] for clip in clips[:2]]


@pytest.mark.slow
def test_an_e_branchformer_goes_through_all_stages(tmp_path):
    recipe = tiny_recipe(tmp_path, made("e_branchformer", tmp_path / "tiny"))
    for name in ("data", "base", "quantize", "pretrain", "adapt", "decode", "score", "report"):
        run_stage(name, recipe)

    systems = read_json(recipe.packed_dir / "results.json")["systems"]
    assert {"espnet", "full", "nf4", "nf4+sat", "nf4+speaker"} <= systems.keys()
    words = {key: (recipe.decode_dir(key, "dev") / "text").read_text() for key in systems}
    assert words["full"] == words["espnet"]
    kinds = {row["kind"] for row in read_json(recipe.packed_dir / "meta.json")["kinds"]}
    assert {"encoder_attention", "encoder_feed_forward"} <= kinds


def test_the_gating_convolution_of_a_branchformer_is_spared_as_other_depthwise_ones(tmp_path):
    kinds = open_float(made("e_branchformer", tmp_path / "base"), SEARCH).layer_kinds()

    spared = sorted(name for name, kind in kinds.items() if kind == "depthwise_conv")
    assert [name for name in spared if ".0." in name] == [
        "encoder.encoders.0.cgmlp.csgu.conv",
        "encoder.encoders.0.depthwise_conv_fusion",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder": "transducer", "joint_net_conf": {"joint_space_size": 8}}, "is a transducer, which has no att"),
        ({"joint_network_conf": {"joint_space_size": 8}}, "is a transducer of ESPnet's asr_transducer"),
        ({"encoder_conf": {"body_conf": [{"block_type": "conformer"}]}}, "is a transducer of ESPnet's asr_transducer"),
        ({"encoder": "whisper", "encoder_conf": {"whisper_model": "tiny"}}, "is a Whisper inside ESPnet.*give the Whi"),
        ({"decoder": "whisper"}, "is a Whisper inside ESPnet"),
        ({"token_type": "whisper_multilingual"}, "is a Whisper inside ESPnet"),
        ({"frontend": "s3prl"}, "with the frontend s3prl, a network of another toolkit"),
        ({"decoder": "hugging_face_transformers"}, "with the decoder hugging_face_transformers, a network of"),
        ({"decoder": None, "model_conf": {"ctc_weight": 1.0}}, "of CTC alone"),
        ({"model_conf": {"ctc_weight": 0.0}}, "of attention alone, without a CTC layer"),
        ({"model": "maskctc"}, "of the type maskctc, which has another search"),
        ({"encoder": "longformer"}, "with the encoder longformer, which is not tested here; known are conformer"),
    ],
)
def test_what_is_not_known_is_refused_by_quantize_and_at_stage_2(tiny_conformer, tmp_path, changes, message):
    folder = shutil.copytree(tiny_conformer, tmp_path / "model")
    config = yaml.safe_load((folder / "config.yaml").read_text()) | changes
    (folder / "config.yaml").write_text(yaml.safe_dump(config))

    with pytest.raises(PqmError, match=message) as error:
        quantize(str(folder), tmp_path / "packed")
    assert "\n" not in str(error.value) and str(folder / "config.yaml") in str(error.value)
    with pytest.raises(PqmError, match=message):
        run_stage("base", tiny_recipe(tmp_path, folder))
    assert not (tmp_path / "packed").exists()
