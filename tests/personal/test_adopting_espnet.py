"""`pqm adopt` takes LoRA that ESPnet itself trained and saved, and says what else was trained with it."""

import shutil

import numpy as np
import pytest
import torch
import yaml

from pqm_plugin.engine.packing import open_float
from pqm_plugin.errors import PqmError
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.personal.exchange import adopt
from pqm_plugin.personal.making import quantize

loralib = pytest.importorskip("loralib")
SEARCH = SearchOptions(beam_size=2, guard="never")
SETTINGS = {"rank": 3, "alpha": 6, "dropout_rate": 0.0, "target_modules": ["linear_q", "w_1"]}


def by_espnet(base, out, strategy, change=lambda network: None):
    """Save a random LoRA as ESPnet's trainer does, in evaluation, by its rule for `save_strategy`."""
    from espnet2.tasks.asr import ASRTask

    shutil.copytree(base, out)
    config = yaml.safe_load((out / "config.yaml").read_text())
    config |= {"use_adapter": True, "adapter": "lora", "save_strategy": strategy, "adapter_conf": SETTINGS}
    (out / "config.yaml").write_text(yaml.safe_dump(config))
    network, _ = ASRTask.build_model_from_file(out / "config.yaml", out / "valid.acc.ave.pth", "cpu")
    network.train()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if "lora_" in name:
                value.normal_(std=0.3)
        change(network)
    network.eval()
    state = loralib.lora_state_dict(network) if strategy == "adapter_only" else network.state_dict()
    (out / "valid.acc.ave.pth").unlink()
    torch.save(state, out / "7epoch.pth")
    return network


def deltas(folder, model):
    from pqm_plugin.adapters.bank import read_factors
    from pqm_plugin.personal.folder import ModelFolder

    factors = read_factors(folder, ModelFolder.of(model).intact(), torch.device("cpu"))
    return {layer: factors.scale * up @ down for layer, (down, up) in factors.layers().items()}


@pytest.fixture
def model(tiny_conformer, packed, tmp_path):
    return shutil.copytree(packed(tiny_conformer), tmp_path / "packed")


@pytest.mark.parametrize("strategy", ["adapter_only", "all"])
def test_a_lora_of_espnet_adds_what_espnet_adds(model, tiny_conformer, tmp_path, strategy):
    network = by_espnet(tiny_conformer, tmp_path / "exp", strategy)

    done = adopt(model, tmp_path / "exp", "ada", str(tiny_conformer))

    assert done.base_checked
    found = deltas(done.folder, model)
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, loralib.LoRALayer)}
    assert found.keys() == layers.keys()
    for name, layer in layers.items():
        torch.testing.assert_close(found[name], layer.lora_B @ layer.lora_A * layer.scaling)
    assert adopt(model, tmp_path / "exp/7epoch.pth", "bob", str(tiny_conformer)).parameters == done.parameters


def test_a_checkpoint_of_the_whole_model_needs_the_base_and_is_refused_where_more_was_trained(
    model, tiny_conformer, tmp_path
):
    by_espnet(tiny_conformer, tmp_path / "exp", "all")
    with pytest.raises(PqmError, match="further weights, which ESPnet may have trained, too: give --base"):
        adopt(model, tmp_path / "exp", "ada")

    def trained(network):
        network.encoder.after_norm.weight.add_(0.5)

    by_espnet(tiny_conformer, tmp_path / "more", "all", trained)
    with pytest.raises(PqmError, match=r"encoder\.after_norm\.weight is neither that of the base nor"):
        adopt(model, tmp_path / "more", "ada", str(tiny_conformer))
    assert not (model / "speakers/ada").exists()


def test_an_average_of_factors_is_said_and_what_is_no_lora_is_refused(model, tiny_conformer, tmp_path, caplog):
    by_espnet(tiny_conformer, tmp_path / "exp", "adapter_only")
    (tmp_path / "exp/7epoch.pth").rename(tmp_path / "exp/valid.acc.ave.pth")

    adopt(model, tmp_path / "exp", "ada")

    assert "averages the factors of several epochs" in caplog.text
    config = yaml.safe_load((tmp_path / "exp/config.yaml").read_text())
    (tmp_path / "exp/config.yaml").write_text(yaml.safe_dump(config | {"adapter": "houlsby"}))
    with pytest.raises(PqmError, match="with the adapter 'houlsby': of ESPnet's adapters only lora is known"):
        adopt(model, tmp_path / "exp", "bob")


def test_a_model_that_espnet_trained_with_a_lora_is_a_base_with_it_merged_and_a_lora_alone_is_not(
    tiny_conformer, tmp_path
):
    from espnet2.bin.asr_inference import Speech2Text

    by_espnet(tiny_conformer, tmp_path / "exp", "all")
    by_espnet(tiny_conformer, tmp_path / "alone", "adapter_only")
    clips = [np.random.default_rng(seed).normal(0, 0.1, 16000).astype("float32") for seed in range(2)]

    from pqm_plugin.models.families import fetch_base

    fetch_base(str(tmp_path / "exp"), tmp_path / "base")

    recognizer = open_float(tmp_path / "base", SEARCH)
    assert not any("lora" in name for name, _ in recognizer.network.named_parameters())
    heard = Speech2Text(
        tmp_path / "exp/config.yaml", tmp_path / "exp/7epoch.pth", beam_size=2, ctc_weight=SEARCH.ctc_weight
    )
    with torch.no_grad():
        found = [recognizer.recognize([clip])[0].text for clip in clips]
    assert found == [heard(clip)[0][0] for clip in clips]
    with pytest.raises(PqmError, match=r"is a LoRA without its base \(save_strategy: adapter_only\), not a model"):
        quantize(str(tmp_path / "alone"), tmp_path / "packed")
