"""On real speech and a real model: the words of stock ESPnet, in 4 bits and at least seven times smaller."""

import pytest
import soundfile
import torch

from pqm_plugin.models.families import family_of
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.quantize.checkpoint import load_packed, save_packed
from pqm_plugin.quantize.layers import quantize_layers
from pqm_plugin.quantize.packed import WeightFormat

pytestmark = [pytest.mark.real, pytest.mark.slow]
N_UTTERANCES = 6


@pytest.fixture(scope="module")
def base(shared):
    return shared / "models" / "conformer_small"


@pytest.fixture(scope="module")
def clips(shared):
    files = sorted((shared / "data/LibriSpeech/dev-clean/1272").rglob("*.flac"), key=lambda path: path.stat().st_size)
    return {path.stem: path for path in files[:N_UTTERANCES]}


@pytest.mark.parametrize("ctc_weight", [0.5, 1.0])
def test_the_full_model_says_the_very_words_of_stock_espnet(base, clips, tmp_path, ctc_weight):
    search = SearchOptions(beam_size=10, ctc_weight=ctc_weight)
    family = family_of(base)
    (tmp_path / "wav.scp").write_text("".join(f"{name} {path}\n" for name, path in clips.items()))

    stock = family.decode_stock("espnet", base, tmp_path / "wav.scp", tmp_path / "out", search, tmp_path / "log")
    recognizer = family.load_float(base, search, "cpu")
    audio = [soundfile.read(path, dtype="float32")[0] for path in clips.values()]
    ours = {name: found.text for name, found in zip(clips, recognizer.recognize(audio), strict=True)}

    assert ours == dict(stock.hypotheses)
    assert all(ours.values())
    assert set(stock.decode_s) == set(clips)
    assert min(stock.decode_s.values()) > 0


def test_the_packed_model_is_seven_times_smaller_and_still_recognises_speech(base, clips, tmp_path):
    family = family_of(base)
    recognizer = family.load_float(base, SearchOptions(), "cpu")
    names = [name for name, kind in recognizer.layer_kinds().items() if kind not in ("depthwise_conv", "ctc")]
    features = [recognizer.features(soundfile.read(path, dtype="float32")[0]) for path in clips.values()]
    before = recognizer.greedy(features)

    quantize_layers(recognizer.network, names, WeightFormat(double_quantize=True))
    save_packed(tmp_path / "model.safetensors", recognizer.network)
    packed = family.load_skeleton(base, SearchOptions(), "cpu")
    load_packed(tmp_path / "model.safetensors", packed.network, "small")
    after = packed.greedy(features)

    assert (base / "valid.acc.ave.pth").stat().st_size > 7 * (tmp_path / "model.safetensors").stat().st_size
    words = [text.split() for text in before]
    kept = sum(word in other.split() for row, other in zip(words, after, strict=True) for word in row)
    assert kept / sum(map(len, words)) > 0.8
    with torch.no_grad():
        weights = [packed.network.get_submodule(name).weight for name in names]
    assert all(weight.isfinite().all() for weight in weights)


def test_espnets_own_lora_would_train_the_whole_base_and_here_leaves_it_and_its_words_as_they_are(base, clips):
    recognizer = family_of(base).load_float(base, SearchOptions(beam_size=4), "cpu")
    n_base = sum(parameter.numel() for parameter in recognizer.network.parameters())
    audio = [soundfile.read(path, dtype="float32")[0] for path in list(clips.values())[:2]]
    before = [found.text for found in recognizer.recognize(audio)]

    by_default = recognizer.attach_toolkit_lora(recognizer.adapter_targets("attention"), 4, 16.0, 0.1)

    frozen = sum(parameter.numel() for parameter in recognizer.network.parameters() if parameter.requires_grad)
    assert by_default == n_base + frozen
    assert 0.005 < frozen / n_base < 0.01
    assert [found.text for found in recognizer.recognize(audio)] == before
