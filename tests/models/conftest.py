"""A stand-in of the Hugging Face hub, and Python processes that can reach nothing else."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".pth", ".safetensors", ".bin")


class Hub(http.server.BaseHTTPRequestHandler):
    """What the hub answers about one repository; weights come from another address, as large files do there."""

    def __init__(self, folder: Path, tag: str, asked: list[str], *args) -> None:
        self.folder, self.tag, self.asked = folder, tag, asked
        super().__init__(*args)

    def do_GET(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0]
        names = packed_names(self.folder)
        files = {f"/{self.tag}/resolve/{at}/{name}": self.folder / name for at in (COMMIT, "main") for name in names}
        stored = {f"/large/{digest(file)}": file for file in files.values()}
        if path in (f"/api/models/{self.tag}", f"/api/models/{self.tag}/revision/main"):
            self.answer(json.dumps({"id": self.tag, "sha": COMMIT, "private": False, "tags": []}).encode())
        elif path == f"/api/models/{self.tag}/tree/{COMMIT}":
            self.answer(json.dumps([entry(self.folder, name) for name in packed_names(self.folder)]).encode())
        elif path in files and files[path].suffix in LARGE:
            file = files[path]
            large = {"X-Linked-Etag": f'"{digest(file)}"', "X-Linked-Size": str(file.stat().st_size)}
            self.answer(b"", 302, {**large, "Location": f"http://{self.headers['Host']}/large/{digest(file)}"})
        elif path in files | stored:
            self.answer((files | stored)[path].read_bytes(), headers={"ETag": f'"{digest((files | stored)[path])}"'})
        else:
            self.answer(
                b'{"error": "Repository not found"}',
                404,
                {"X-Error-Code": "EntryNotFound" if path.startswith(f"/{self.tag}/") else "RepoNotFound"},
            )

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
    return facts | (large if file.suffix in LARGE else {})


@pytest.fixture
def serve_hub() -> Iterator[Callable[[Path, str], SimpleNamespace]]:
    """Return a function that serves a folder as the repository `tag`: its `port`, what was `asked`, and `stop`."""
    servers = []

    def serve(folder: Path, tag: str) -> SimpleNamespace:
        asked: list[str] = []
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, folder, tag, asked))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)

        def stop() -> None:
            server.shutdown()
            server.server_close()

        return SimpleNamespace(port=server.server_address[1], asked=asked, stop=stop)

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def python_with_hub(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs Python with a hub at a port, new caches, and no other address to be reached."""
    return partial(_python, tmp_path)


def _python(tmp_path: Path, port: int, *arguments: str) -> subprocess.CompletedProcess[str]:
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
