"""What the trainer's process adds to ESPnet."""

import hashlib

import pytest
import torch

from pqm_plugin.models.espnet import worker as espnet_worker


@pytest.fixture
def whole_saves(monkeypatch):
    monkeypatch.setattr(torch, "save", torch.save)  # so that it is put back
    espnet_worker.save_whole_files()


def test_a_save_that_fails_leaves_the_earlier_checkpoint(tmp_path, whole_saves):
    path = tmp_path / "checkpoint.pth"
    torch.save({"epoch": 1}, path)

    # Python 3.13 says what it cannot get, and not that it pickles.
    with pytest.raises(Exception, match="pickle|local object"):
        torch.save({"epoch": lambda: 2}, path)

    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.pth"]


def test_the_same_weights_give_the_same_bytes_under_any_name(tmp_path, whole_saves):
    for name in ("a.pth", "longer.pth"):
        torch.save({"w": torch.arange(4.0)}, tmp_path / name)

    assert len({hashlib.sha256(path.read_bytes()).digest() for path in tmp_path.iterdir()}) == 1


def test_a_model_file_lost_between_checkpoint_and_kill_is_written_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = {"w": torch.arange(3.0)}
    torch.save({"model": weights, "reporter": {"epoch": 7}}, "checkpoint.pth")

    espnet_worker.restore_epoch_file()

    assert torch.equal(torch.load("7epoch.pth", weights_only=True)["w"], weights["w"])


def test_without_a_checkpoint_there_is_nothing_to_restore(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    espnet_worker.restore_epoch_file()

    assert list(tmp_path.iterdir()) == []
