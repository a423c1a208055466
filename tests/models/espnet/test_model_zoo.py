"""A model-zoo tag through ESPnet's own downloader and the hub's own client, against a stand-in of the hub here."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from pqm_plugin.errors import PqmError
from pqm_plugin.models.families import family_of, fetch_base
from pqm_plugin.models.options import SearchOptions

ROOT = Path(__file__).resolve().parents[3]
TAG = "someone/tiny_conformer"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
EXPERIMENT = "exp/asr_train_tiny"
STATISTICS = "exp/asr_stats_raw/train/feats_stats.npz"
FETCH = "import sys; from pathlib import Path; from pqm_plugin.models.families import fetch_base; " + (
    "fetch_base(sys.argv[1], Path(sys.argv[2]))"
)


@pytest.fixture
def packed(tiny_conformer, tmp_path) -> Path:
    """A repository as `espnet2.bin.pack` and a push leave it: names relative to its root, statistics of features."""
    folder = tmp_path / "repository"
    (folder / EXPERIMENT).mkdir(parents=True)
    (folder / STATISTICS).parent.mkdir(parents=True)
    np.savez(folder / STATISTICS, count=2, sum=np.full(20, 4.0), sum_square=np.full(20, 10.0))
    config = yaml.safe_load((tiny_conformer / "config.yaml").read_text())
    config |= {"normalize": "global_mvn", "normalize_conf": {"stats_file": STATISTICS}}
    (folder / EXPERIMENT / "config.yaml").write_text(yaml.safe_dump(config))
    # The mean is 4 / 2, the variance 10 / 2 - 2² = 1.
    moments = {"normalize.mean": torch.full((20,), 2.0), "normalize.std": torch.ones(20)}
    state = torch.load(tiny_conformer / "valid.acc.ave.pth", weights_only=True)
    torch.save(state | moments, folder / EXPERIMENT / "valid.acc.ave.pth")
    meta = {
        "files": {"asr_model_file": f"{EXPERIMENT}/valid.acc.ave.pth"},
        "yaml_files": {"asr_train_config": f"{EXPERIMENT}/config.yaml"},
    }
    (folder / "meta.yaml").write_text(yaml.safe_dump(meta))
    (folder / "README.md").write_text("a model")
    return folder


@pytest.fixture
def hub(packed, serve_hub) -> SimpleNamespace:
    return serve_hub(packed, TAG)


@pytest.mark.slow
def test_a_tag_is_brought_from_the_hub_and_is_there_again_without_it(hub, packed, python_with_hub, tmp_path):
    first = python_with_hub(hub.port, "-c", FETCH, TAG, str(tmp_path / "one"))

    assert first.returncode == 0, first.stderr
    assert sorted(os.listdir(tmp_path / "one")) == ["config.yaml", "feats_stats.npz", "valid.acc.ave.pth"]
    assert not any((tmp_path / "one" / name).is_symlink() for name in os.listdir(tmp_path / "one"))
    recognizer = family_of(tmp_path / "one").load_float(tmp_path / "one", SearchOptions(), "cpu")
    assert torch.equal(recognizer.network.state_dict()["normalize.mean"], torch.full((20,), 2.0))
    assert not any("table.csv" in request for request in hub.asked)
    shutil.rmtree(packed)
    hub.stop()
    again = python_with_hub(hub.port, "-c", FETCH, TAG, str(tmp_path / "two"))
    assert again.returncode == 0, again.stderr
    for name in os.listdir(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def zipped(folder: Path, out: Path) -> str:
    return shutil.make_archive(str(out), "zip", folder)


def test_a_packed_model_that_names_a_file_of_this_machine_is_refused(packed, tmp_path):
    (tmp_path / "secret").write_text("of this machine")
    config = yaml.safe_load((packed / EXPERIMENT / "config.yaml").read_text())
    config["normalize_conf"]["stats_file"] = str(tmp_path / "secret")
    (packed / EXPERIMENT / "config.yaml").write_text(yaml.safe_dump(config))

    with pytest.raises(PqmError, match=rf"names {tmp_path / 'secret'}, which is not there"):
        fetch_base(zipped(packed, tmp_path / "model"), tmp_path / "out")

    assert not (tmp_path / "out" / "secret").exists()


def test_weights_that_the_meta_file_takes_from_elsewhere_or_nowhere_are_refused(packed, tmp_path):
    weights = packed / EXPERIMENT / "valid.acc.ave.pth"
    for place, name in enumerate((str(weights), f"../repository/{EXPERIMENT}/valid.acc.ave.pth", "exp/other.pth")):
        meta = yaml.safe_load((packed / "meta.yaml").read_text())
        meta["files"]["asr_model_file"] = name
        (packed / "meta.yaml").write_text(yaml.safe_dump(meta))

        with pytest.raises(PqmError, match=r"which are not inside: pack the model again"):
            fetch_base(zipped(packed, tmp_path / str(place)), tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("running", [True, False])
def test_an_unknown_tag_and_a_hub_out_of_reach_are_one_line_and_leave_no_folder(
    hub, python_with_hub, tmp_path, running
):
    if not running:
        hub.stop()
    tag = "someone/no_such_model"

    done = python_with_hub(hub.port, "-m", "pqm_plugin", "base", "--base", tag, "--expdir", "exp")

    assert done.returncode == 1
    # ESPnet itself says on import that it runs without Flash Attention.
    [line] = [line for line in done.stderr.strip().splitlines() if "Flash Attention" not in line]
    assert line.startswith(f"pqm base: --base {tag}: the model zoo could not be reached or does not know it (")
    assert ("RepositoryNotFoundError: 404" if running else "ConnectError: [Errno 111]") in line
    assert line.endswith("download the packed zip by other means and give its path")
    assert not any(path.is_dir() for path in (tmp_path / "exp").iterdir())
