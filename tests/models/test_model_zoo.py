"""A model-zoo tag through ESPnet's own downloader and the hub's own client, against a stand-in of the hub here."""

import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from pqm_plugin.errors import PqmError
from pqm_plugin.models.families import family_of, fetch_base
from pqm_plugin.models.options import SearchOptions

ROOT = Path(__file__).resolve().parents[2]
TAG = "someone/tiny_conformer"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
EXPERIMENT = "exp/asr_train_tiny"
STATISTICS = "exp/asr_stats_raw/train/feats_stats.npz"
FETCH = "import sys; from pathlib import Path; from pqm_plugin.models.families import fetch_base; " + (
    "fetch_base(sys.argv[1], Path(sys.argv[2]))"
)


class Hub(http.server.BaseHTTPRequestHandler):
    """What the hub answers about one repository; weights come from another address, as large files do there."""

    def __init__(self, folder: Path, asked: list[str], *args) -> None:
        self.folder, self.asked = folder, asked
        super().__init__(*args)

    def do_GET(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0]
        files = {f"/{TAG}/resolve/{COMMIT}/{name}": self.folder / name for name in packed_names(self.folder)}
        stored = {f"/large/{digest(file)}": file for file in files.values()}
        if path in (f"/api/models/{TAG}", f"/api/models/{TAG}/revision/main"):
            self.answer(json.dumps({"id": TAG, "sha": COMMIT, "private": False, "tags": []}).encode())
        elif path == f"/api/models/{TAG}/tree/{COMMIT}":
            self.answer(json.dumps([entry(self.folder, name) for name in packed_names(self.folder)]).encode())
        elif path in files and files[path].suffix == ".pth":
            file = files[path]
            large = {"X-Linked-Etag": f'"{digest(file)}"', "X-Linked-Size": str(file.stat().st_size)}
            self.answer(b"", 302, {**large, "Location": f"http://{self.headers['Host']}/large/{digest(file)}"})
        elif path in files | stored:
            self.answer((files | stored)[path].read_bytes(), headers={"ETag": f'"{digest((files | stored)[path])}"'})
        else:
            self.answer(b'{"error": "Repository not found"}', 404, {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET  # noqa: N815

    def answer(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"X-Repo-Commit": COMMIT, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass


def packed_names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def entry(folder: Path, name: str) -> dict:
    file = folder / name
    facts = {"type": "file", "path": name, "size": file.stat().st_size, "oid": digest(file)[:40]}
    large = {"lfs": {"oid": digest(file), "size": facts["size"], "pointerSize": 130}}
    return facts | (large if file.suffix == ".pth" else {})


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
def asked() -> list[str]:
    """What was asked of the hub, in order."""
    return []


@pytest.fixture
def hub(packed, asked) -> Iterator[http.server.ThreadingHTTPServer]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, packed, asked))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def python(tmp_path: Path, port: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python where the hub is at `port`, all caches are new, and no other address can be reached."""
    dead = {name: "http://127.0.0.1:9" for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")}
    here = {
        "HF_ENDPOINT": f"http://127.0.0.1:{port}",
        "HF_HOME": str(tmp_path / "hf"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "HOME": str(tmp_path),
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.run(
        [sys.executable, *arguments],
        env=kept | dead | here,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
def test_a_tag_is_brought_from_the_hub_and_is_there_again_without_it(hub, packed, asked, tmp_path):
    port = hub.server_address[1]

    first = python(tmp_path, port, "-c", FETCH, TAG, str(tmp_path / "one"))

    assert first.returncode == 0, first.stderr
    assert sorted(os.listdir(tmp_path / "one")) == ["config.yaml", "feats_stats.npz", "valid.acc.ave.pth"]
    assert not any((tmp_path / "one" / name).is_symlink() for name in os.listdir(tmp_path / "one"))
    recognizer = family_of(tmp_path / "one").load_float(tmp_path / "one", SearchOptions(), "cpu")
    assert torch.equal(recognizer.network.state_dict()["normalize.mean"], torch.full((20,), 2.0))
    assert not any("table.csv" in request for request in asked)
    shutil.rmtree(packed)
    hub.shutdown()
    hub.server_close()
    again = python(tmp_path, port, "-c", FETCH, TAG, str(tmp_path / "two"))
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
def test_an_unknown_tag_and_a_hub_out_of_reach_are_one_line_and_leave_no_folder(hub, tmp_path, running):
    port = hub.server_address[1]
    if not running:
        hub.shutdown()
        hub.server_close()
    tag = "someone/no_such_model"

    done = python(tmp_path, port, "-m", "pqm_plugin", "base", "--base", tag, "--expdir", "exp")

    assert done.returncode == 1
    # ESPnet itself says on import that it runs without Flash Attention.
    [line] = [line for line in done.stderr.strip().splitlines() if "Flash Attention" not in line]
    assert line.startswith(f"pqm base: --base {tag}: the model zoo could not be reached or does not know it (")
    assert ("RepositoryNotFoundError: 404" if running else "ConnectError: [Errno 111]") in line
    assert line.endswith("download the packed zip by other means and give its path")
    assert not any(path.is_dir() for path in (tmp_path / "exp").iterdir())
