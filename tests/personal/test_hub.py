"""Push and pull through the hub's own client, against a stand-in of the hub's file API here."""

import base64
import http.server
import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from pqm_plugin.files import read_json
from tests.models.conftest import COMMIT, LARGE, Hub, python_with_hub

__all__ = ["python_with_hub"]
pytestmark = pytest.mark.slow
TAG = "ada/my_model"
# Chunked uploads of hf_xet go to other services than the file API.
CALL = "import os, sys; os.environ['HF_HUB_DISABLE_XET'] = '1'; os.environ['HF_TOKEN'] = 'hf_test'; " + (
    "from pqm_plugin.commands.__main__ import main; sys.exit(main(sys.argv[1:]))"
)


class WritableHub(Hub):
    """A repository that takes commits: small files inside them, large ones before."""

    def do_GET(self) -> None:  # noqa: N802
        # The branch has one commit, whose tree is asked for by either name.
        self.path = self.path.replace("/tree/main", f"/tree/{COMMIT}")
        super().do_GET()

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:  # noqa: N802
        self.asked.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        if path == "/api/repos/create":
            self.asked.append(json.loads(body).get("visibility") or f"private={json.loads(body).get('private')}")
            self.tell({"url": f"http://{self.headers['Host']}/{self.tag}", "name": self.tag})
        elif path == "/api/validate-yaml":
            self.tell({"errors": [], "warnings": []})
        elif path == f"/api/models/{self.tag}/preupload/main":
            self.tell({"files": [self.mode(file["path"]) for file in json.loads(body)["files"]]})
        elif path == f"/{self.tag}.git/info/lfs/objects/batch":
            self.tell({"transfer": "basic", "objects": [self.place(each) for each in json.loads(body)["objects"]]})
        elif path == f"/api/models/{self.tag}/commit/main":
            for line in body.splitlines():
                self.commit(json.loads(line))
            self.tell({"commitUrl": f"http://{self.headers['Host']}/{self.tag}/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self.answer(b"{}", 404)

    def do_PUT(self) -> None:  # noqa: N802
        self.store(self.path.rpartition("/")[2]).write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer(b"")

    def tell(self, value: object) -> None:
        self.answer(json.dumps(value).encode(), headers={"Content-Type": "application/json"})

    def mode(self, name: str) -> dict:
        return {"path": name, "uploadMode": "lfs" if name.endswith(LARGE) else "regular", "shouldIgnore": False}

    def place(self, each: dict) -> dict:
        return {**each, "actions": {"upload": {"href": f"http://{self.headers['Host']}/put/{each['oid']}"}}}

    def store(self, oid: str) -> Path:
        folder = self.folder.with_name("large")
        folder.mkdir(exist_ok=True)
        return folder / oid

    def commit(self, line: dict) -> None:
        value = line["value"]
        target = self.folder / value.get("path", "")
        if line["key"] == "deletedFile":
            target.unlink()
        elif line["key"] in ("file", "lfsFile"):
            target.parent.mkdir(parents=True, exist_ok=True)
            data = base64.b64decode(value["content"]) if "content" in value else self.store(value["oid"]).read_bytes()
            target.write_bytes(data)


@pytest.fixture
def hub(tmp_path) -> Iterator[SimpleNamespace]:
    """An empty repository: its `port`, its `folder`, what was `asked`."""
    folder = tmp_path / "hub/repository"
    folder.mkdir(parents=True)
    asked: list[str] = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(WritableHub, folder, TAG, asked))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield SimpleNamespace(port=server.server_address[1], folder=folder, asked=asked)
    server.shutdown()
    server.server_close()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_pushed_is_pulled_and_what_a_model_no_longer_has_goes(hub, conformer, python_with_hub, tmp_path):
    (hub.folder / "notes.pdf").write_bytes(b"the owner's")
    (hub.folder / "old.json").write_bytes(b"{}")

    pushed = python_with_hub(hub.port, "-c", CALL, "push", str(conformer), TAG)
    pulled = python_with_hub(hub.port, "-c", CALL, "pull", TAG, str(tmp_path / "out"))

    assert pushed.returncode == 0, pushed.stderr
    assert pulled.returncode == 0, pulled.stderr
    assert any("private" in line for line in hub.asked)
    there = contents(hub.folder)
    assert "old.json" not in there and "notes.pdf" in there
    assert contents(tmp_path / "out") == {k: v for k, v in there.items() if k not in ("manifest.json", "notes.pdf")}
    assert (tmp_path / "out/model.safetensors").read_bytes() == (conformer / "model.safetensors").read_bytes()
    assert read_json(conformer / "meta.json")["sha256"] in pulled.stdout


def test_what_was_changed_on_the_hub_is_refused_and_nothing_is_left(hub, conformer, python_with_hub, tmp_path):
    assert python_with_hub(hub.port, "-c", CALL, "push", str(conformer), TAG).returncode == 0
    weights = (hub.folder / "model.safetensors").read_bytes()
    for change, why in ((b"x" * len(weights), "its hash differs"), (weights + b"x", "are allowed: it is refused")):
        (hub.folder / "model.safetensors").write_bytes(change)

        done = python_with_hub(hub.port, "-c", CALL, "pull", TAG, str(tmp_path / "out"))

        assert done.returncode == 1 and why in done.stderr
        assert not (tmp_path / "out").exists()


def test_without_a_network_or_a_name_it_is_one_line(conformer, python_with_hub, tmp_path):
    for command in (["push", str(conformer), TAG], ["pull", TAG, str(tmp_path / "out")], ["pull", "../x", "out"]):
        done = python_with_hub(9, "-c", CALL, *command, "--quiet")

        said = [line for line in done.stderr.splitlines() if line.startswith("pqm ")]
        assert done.returncode == 1 and len(said) == 1
        assert "could not be reached" in said[0] or "is not a name on the hub" in said[0]
        assert "Traceback" not in done.stderr
