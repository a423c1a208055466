"""Moving a network is enough: all that its recogniser makes is made where the network is."""

from functools import partial

import numpy as np
import pytest
import soundfile
import torch

from pqm_plugin.adapters.bank import AdapterBank
from pqm_plugin.adapters.batches import Example
from pqm_plugin.adapters.files import AdapterInfo, save_adapter
from pqm_plugin.adapters.lora import attach
from pqm_plugin.adapters.options import TrainOptions
from pqm_plugin.adapters.train import train_adapter
from pqm_plugin.models.espnet.model import espnet_nbest
from pqm_plugin.models.families import family_of
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.models.replay import prepare_loss, training_loss
from pqm_plugin.quantize.checkpoint import load_packed, save_packed
from pqm_plugin.quantize.layers import quantize_layers
from pqm_plugin.quantize.modes import MODES
from pqm_plugin.quantize.packed import WeightFormat
from tests.pretended import DEVICE, PretendedDevice

SEARCH = SearchOptions(beam_size=2, context="clip")
TEXTS = ("A CAT", "NO")
CLOSE, COARSE = 1e-3, 2e-2


def clips():
    noise = np.random.default_rng(0)
    return [noise.normal(0, 0.1, int(16000 * length_s)).astype(np.float32) for length_s in (0.9, 0.6)]


@pytest.fixture(params=["tiny_conformer", "tiny_whisper"])
def packed(request, tmp_path):
    """A packed model of each family: its configuration's folder, and its weights."""
    folder = request.getfixturevalue(request.param)
    recognizer = family_of(folder).load_float(folder, SEARCH, "cpu")
    quantize_layers(recognizer.network, list(recognizer.layer_kinds()), WeightFormat())
    save_packed(tmp_path / "model.safetensors", recognizer.network, built_in=recognizer.built_in)
    return folder, tmp_path / "model.safetensors"


def opened(packed, mode="exact", device="cpu"):
    """As the stages open it: on the CPU, and moved then."""
    folder, weights = packed
    recognizer = family_of(folder).load_skeleton(folder, SEARCH, "cpu")
    load_packed(weights, recognizer.network, mode)
    recognizer.network.to(device)
    recognizer.network.eval()
    return recognizer


def adapted(packed, device):
    """The packed model with a fresh adapter, on `device`."""
    recognizer = opened(packed)
    torch.manual_seed(0)
    model = attach(recognizer.network, recognizer.adapter_targets("attention"), rank=2, alpha=4.0, dropout=0.0)
    return recognizer, model.to(device)


def test_an_adapter_that_is_attached_to_a_network_that_was_moved_is_where_it_is(packed, with_gpu):
    with with_gpu():
        recognizer = opened(packed, device="cuda")
        model = attach(recognizer.network, recognizer.adapter_targets("attention"), rank=2, alpha=4.0, dropout=0.0)

        assert {value.device.type for value in model.parameters()} == {"cuda"}


@pytest.fixture
def adapters(packed, tmp_path):
    """Two adapters of the packed model."""
    folders = [tmp_path / "ada", tmp_path / "eve"]
    for seed, folder in enumerate(folders):
        recognizer = opened(packed)
        model = attach(recognizer.network, recognizer.adapter_targets("attention"), rank=2, alpha=4.0, dropout=0.0)
        torch.manual_seed(seed)
        with torch.no_grad():
            for name, value in model.named_parameters():
                if "lora_" in name:
                    value.normal_(0, 0.3)
        save_adapter(folder, model, AdapterInfo("abc", "ada", 1, 100, 3))
    return folders


def heard(recognizer, folders=()):
    assert recognizer.max_batch > 1
    with AdapterBank(recognizer.network, "abc").rows(folders):
        found = recognizer.recognize(clips())
    return [one.text for one in found], [one.score for one in found]


@pytest.mark.parametrize("mode", MODES)
def test_a_packed_model_is_searched_where_its_network_is_each_row_with_its_adapter(
    packed, adapters, with_gpu, caplog, mode
):
    words, scores = heard(opened(packed, mode), adapters)

    with with_gpu():
        recognizer = opened(packed, mode, "cuda")
        features = recognizer.features(clips()[0])
        found = heard(recognizer, adapters)

        assert features.device.type == "cuda"
    assert found[1] == pytest.approx(scores, abs=CLOSE, rel=CLOSE)
    assert found[0] == words
    assert "ESPnet's own" not in caplog.text


@pytest.mark.gpu
@pytest.mark.real
def test_on_a_gpu_the_real_conformer_is_searched_in_batches_with_the_scores_that_the_cpu_finds(shared, caplog):
    base = shared / "models" / "conformer_small"
    files = sorted((shared / "data/LibriSpeech/dev-clean/1272").rglob("*.flac"), key=lambda path: path.stat().st_size)
    audio = [soundfile.read(path, dtype="float32")[0] for path in (*files[:3], files[20])]
    search = SearchOptions(beam_size=4)
    recognizers = [family_of(base).load_float(base, search, device) for device in ("cpu", "cuda")]

    here, there = ([(one.text, one.score) for one in recognizer.recognize(audio)] for recognizer in recognizers)

    assert "one utterance after the other" not in caplog.text
    assert [text for text, _ in there] == [text for text, _ in here]
    assert [score for _, score in there] == pytest.approx([score for _, score in here], abs=CLOSE)


def test_losses_and_gradients_are_computed_where_the_network_is(packed, with_gpu):
    def learned(device):
        recognizer, model = adapted(packed, device)
        features = [recognizer.features(clip) for clip in clips()]
        tokens = [recognizer.token_ids(text) for text in TEXTS]
        plain = training_loss(recognizer, features, tokens)
        prepared = prepare_loss(recognizer, features, tokens)()
        prepared.total.backward()
        gradients = [value.grad for name, value in model.named_parameters() if "lora_B" in name]
        assert {one.device.type for one in (plain.total, *gradients)} == {device}
        return (plain.total.item(), prepared.total.item(), plain.n_correct), [one.cpu() for one in gradients]

    told, theirs = learned("cpu")
    with with_gpu():
        found, ours = learned("cuda")

    assert found == pytest.approx(told, rel=CLOSE)
    assert all(torch.allclose(one, other, atol=CLOSE) for one, other in zip(ours, theirs, strict=True))


def test_the_fastest_decoding_is_where_the_network_is(packed, with_gpu):
    def words(device):
        recognizer = opened(packed, device=device)
        return recognizer.greedy([recognizer.features(clip) for clip in clips()])

    expected = words("cpu")
    with with_gpu():
        assert words("cuda") == expected


def test_an_adapter_that_learns_on_a_gpu_goes_on_there_as_if_it_had_not_been_stopped(packed, with_gpu, tmp_path):
    def learned(device, *epochs):
        for n_epochs in epochs:
            recognizer, model = adapted(packed, device)
            features = [recognizer.features(clip) for clip in clips()]
            examples = [Example(one, recognizer.token_ids(text)) for one, text in zip(features, TEXTS, strict=True)]
            options = TrainOptions(epochs=n_epochs, learning_rate=0.01, criterion="loss")
            loss, prepare = partial(training_loss, recognizer), partial(prepare_loss, recognizer)
            checkpoint = tmp_path / f"{device}{epochs}"
            log = train_adapter(model, loss, examples, examples, options, 0, checkpoint, "ada", prepare).log
        return [row.dev_loss for row in log]

    expected = learned("cpu", 3)
    with with_gpu():
        whole, resumed = learned("cuda", 3), learned("cuda", 1, 3)

    assert resumed == pytest.approx(whole, rel=CLOSE)
    assert resumed == pytest.approx(expected, rel=COARSE)
    assert resumed[-1] < resumed[0]


def test_espnets_own_search_is_where_the_network_is(tiny_conformer, with_gpu):
    recognizer = family_of(tiny_conformer).load_float(tiny_conformer, SEARCH, "cpu")
    [(text, *_)] = espnet_nbest(recognizer, clips()[0], 1)

    with with_gpu():
        recognizer.network.to("cuda")
        [(found, *_)] = espnet_nbest(recognizer, clips()[0], 1)

    assert found == text


def test_two_devices_do_not_mix():
    with PretendedDevice():
        here, there = torch.ones(2), torch.ones(2, device="cuda")

        assert (here.device.type, there.device, (2 * there).device) == ("cpu", DEVICE, DEVICE)
        assert there.cpu().device.type == here.device.type
        for product in (lambda: here + there, lambda: torch.dot(here, there), lambda: here[there.long()]):
            with pytest.raises(RuntimeError, match="on cuda:7"):
                product()
        with pytest.raises(RuntimeError, match="not an array"):
            there.numpy()
