"""A personal model may leave its mode to the machine, which decides once."""

from types import SimpleNamespace

import pytest

import pqm_plugin
from pqm_plugin.personal import opening
from pqm_plugin.personal.opening import mode_for
from pqm_plugin.quantize.layers import packed_layers


@pytest.fixture
def packed_file(tmp_path):
    """A thousand bytes of codes, thus two thousand weights."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(1000))
    return SimpleNamespace(packed=path)


@pytest.mark.parametrize(("free", "mode"), [(32000, "exact"), (31999, "small")])
def test_auto_is_what_fits_by_the_size_of_the_file_and_the_log_says_why(packed_file, monkeypatch, caplog, free, mode):
    monkeypatch.setattr(opening, "free_bytes", lambda device: free)
    caplog.set_level("INFO")

    assert mode_for(packed_file, "cpu") == mode
    assert f"mode auto: {mode}, for " in caplog.text


@pytest.mark.gpu
def test_on_a_gpu_a_small_model_is_exact_and_the_log_names_the_device(packed_file, caplog):
    caplog.set_level("INFO")

    assert mode_for(packed_file, "cuda") == "exact"
    assert "on cuda" in caplog.text


@pytest.mark.slow
def test_a_model_that_is_opened_again_keeps_the_mode_that_was_picked(conformer, monkeypatch):
    amounts = iter([1, 10**12])
    monkeypatch.setattr(opening, "free_bytes", lambda device: next(amounts))

    model = pqm_plugin.load(conformer, mode="auto")
    model.reopen()

    assert model.mode == "small"
    assert all(layer.expanded is None for layer in packed_layers(model.recognizer.network).values())
