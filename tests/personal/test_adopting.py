"""`pqm adopt`: a LoRA that plain PEFT made on the float model becomes a speaker, or one line says why not."""

import json

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import WhisperForConditionalGeneration

from pqm_plugin.adapters.bank import read_factors
from pqm_plugin.commands.__main__ import main
from pqm_plugin.errors import PqmError
from pqm_plugin.personal.exchange import adopt
from pqm_plugin.personal.making import quantize
from pqm_plugin.personal.model import PersonalModel

PLAIN = {"r": 2, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"]}
LAYER = "model.decoder.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def model(tiny_whisper, tmp_path_factory):
    """Return the folder of a packed tiny Whisper."""
    folder = tmp_path_factory.mktemp("adopting") / "packed"
    quantize(str(tiny_whisper), folder)
    return folder


def by_plain_peft(base, folder, **settings):
    """Write an adapter as users of PEFT do, and return what it adds to each layer's weight."""
    torch.manual_seed(0)
    network = get_peft_model(WhisperForConditionalGeneration.from_pretrained(base), LoraConfig(**PLAIN | settings))
    with torch.no_grad():
        for name, value in network.named_parameters():
            if "lora_" in name:
                value.normal_(std=0.7)
    network.save_pretrained(folder)
    layers = network.base_model.model.named_modules()
    return {name: layer.get_delta_weight("default") for name, layer in layers if hasattr(layer, "get_delta_weight")}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"target_modules": ["q_proj", "out_proj", "fc1"]},
        {"use_rslora": True},
        {"rank_pattern": {LAYER: 3}, "alpha_pattern": {"v_proj": 1}},
        {"rank_pattern": {LAYER: 1}, "use_rslora": True},
        {
            "rank_pattern": {r".*\.encoder\..*q_proj": 3},
            "alpha_pattern": {r"(encoder|decoder)\.layers\.\d\..*v_proj": 1},
        },
        {"target_modules": ["conv1", "conv2", "v_proj"]},
        {"init_lora_weights": "gaussian"},
    ],
    ids=[
        "plain",
        "short names",
        "rank-stabilised",
        "ranks and scales",
        "ranks, rank-stabilised",
        "patterns",
        "convolutions",
        "gaussian",
    ],
)
def test_what_is_added_to_each_weight_is_what_plain_peft_adds(model, tiny_whisper, tmp_path, settings):
    wanted = by_plain_peft(tiny_whisper, tmp_path / "plain", **settings)

    name = f"speaker{abs(hash(str(settings)))}"
    done = adopt(model, tmp_path / "plain", name, str(tiny_whisper))

    info = json.loads((done.folder / "pqm.json").read_text())
    factors = read_factors(done.folder, info["base_sha256"], torch.device("cpu"))
    found = {
        layer: (factors.scale * up.flatten(1) @ down.flatten(1)).reshape(wanted[layer].shape)
        for layer, (down, up) in factors.layers().items()
    }
    assert found.keys() == wanted.keys() and done.base_checked
    for layer, added in wanted.items():
        torch.testing.assert_close(found[layer], added, rtol=1e-5, atol=1e-6)


def test_an_adopted_speaker_is_transcribed_with_and_the_command_says_what_was_checked(
    model, tiny_whisper, tmp_path, capsys, caplog
):
    by_plain_peft(tiny_whisper, tmp_path / "plain")
    arguments = ["adopt", str(model), str(tmp_path / "plain"), "--speaker", "ada"]

    assert main(arguments) == 0

    assert "its base is the model's own" in capsys.readouterr().out
    heard = PersonalModel(model)
    clip = np.random.default_rng(0).normal(size=16000).astype("float32") * 0.1
    assert "ada" in heard.speakers
    assert isinstance(heard.recognizer.network.get_submodule(LAYER), torch.nn.Linear)
    with torch.no_grad():
        before = heard.recognizer._encode([heard.recognizer.features(clip)]).hidden
    with heard.using(heard.folder.known_speaker("ada"), 1), torch.no_grad():
        after = heard.recognizer._encode([heard.recognizer.features(clip)]).hidden
    assert not torch.allclose(after, before, atol=1e-3)
    assert main(["check", str(model)]) == 0
    assert main(arguments) == 1 and "is there already" in capsys.readouterr().err


def test_a_base_that_is_not_here_is_said_and_another_one_is_refused(model, tiny_whisper, tmp_path, caplog):
    by_plain_peft(tiny_whisper, tmp_path / "plain")
    path = tmp_path / "plain/adapter_config.json"
    config = json.loads(path.read_text()) | {"base_model_name_or_path": "somebody/whisper-ours"}
    path.write_text(json.dumps(config))

    done = adopt(model, tmp_path / "plain", "unchecked")

    assert not done.base_checked
    assert "whether its base (somebody/whisper-ours) is the model" in caplog.text and "give --base" in caplog.text
    other = tmp_path / "other"
    network = WhisperForConditionalGeneration.from_pretrained(tiny_whisper)
    with torch.no_grad():
        network.model.decoder.layers[0].fc1.weight.add_(1.0)
    for file in tiny_whisper.iterdir():
        if file.name != "model.safetensors":
            other.mkdir(exist_ok=True)
            (other / file.name).write_bytes(file.read_bytes())
    network.save_pretrained(other)
    with pytest.raises(PqmError, match="is another model than the one that"):
        adopt(model, tmp_path / "plain", "of_another", str(other))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "use_dora is set, which cannot be computed here"),
        ({"bias": "lora_only"}, r"trained biases \(bias: lora_only\)"),
        ({"modules_to_save": ["proj_out"]}, "modules_to_save is set"),
        ({"peft_type": "IA3"}, r"is not of a LoRA \(IA3\)"),
        ({"lora_alpha": "much"}, r"no usable lora_alpha \(much\)"),
        ({"alpha_pattern": {"(.*a)*q_proj": 3}}, "is not a layer's name or a simple pattern"),
        ({"alpha_pattern": {"[q_proj": 3}}, "is no pattern"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4', which changed the base's"),
        ({"target_parameters": ["x"]}, "target_parameters is set"),
    ],
)
def test_what_is_more_than_a_lora_is_refused_by_name(model, tiny_whisper, tmp_path, changes, message):
    by_plain_peft(tiny_whisper, tmp_path / "plain")
    path = tmp_path / "plain/adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    with pytest.raises(PqmError, match=message):
        adopt(model, tmp_path / "plain", "refused")

    assert not (model / "speakers/refused").exists()


def test_names_that_hold_the_adapters_own_name_are_read(model, tiny_whisper, tmp_path):
    from safetensors.torch import load_file, save_file

    wanted = by_plain_peft(tiny_whisper, tmp_path / "plain")
    path = tmp_path / "plain/adapter_model.safetensors"
    save_file({name.replace(".weight", ".default.weight"): value for name, value in load_file(path).items()}, path)

    assert adopt(model, tmp_path / "plain", "own_name", str(tiny_whisper)).parameters > len(wanted)


def test_an_adapter_of_another_model_is_refused_with_the_layer(model, tiny_whisper, tmp_path):
    from safetensors.torch import load_file, save_file

    by_plain_peft(tiny_whisper, tmp_path / "plain")
    path = tmp_path / "plain/adapter_model.safetensors"
    tensors = load_file(path)

    save_file({name.replace("layers.0", "layers.9"): value for name, value in tensors.items()}, path)
    with pytest.raises(PqmError, match=r"the model has no layer 'model\..*layers\.9.*another model"):
        adopt(model, tmp_path / "plain", "refused")

    save_file({name: value.repeat(1, 2) if "lora_A" in name else value for name, value in tensors.items()}, path)
    with pytest.raises(PqmError, match=r"takes \d+ and gives \d+ values, its factors are"):
        adopt(model, tmp_path / "plain", "refused")
