"""Archives are fetched whole, or an error says in one line what to do."""

import hashlib
import io
import shutil
import tarfile
import threading
from collections import namedtuple
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pqm_plugin.corpus.download import MIRROR, Archive, fetch
from pqm_plugin.errors import PqmError


class Server(ThreadingHTTPServer):
    """Serves one file at any path with Range, sending no more than `at_most` bytes an answer; notes each Range."""

    def __init__(self, content: bytes, at_most: int | None = None, knows_range: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.at_most, self.knows_range = content, at_most, knows_range
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/resources"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range") if self.server.knows_range else None
        self.server.asked.append(self.headers.get("Range"))
        start, size = int(wanted[6:-1]) if wanted else 0, len(self.server.content)
        if wanted and start >= size:
            self.send_error(416)
            return
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(size - start))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.end_headers()
        stop = size if self.server.at_most is None else start + self.server.at_most
        self.wfile.write(self.server.content[start:stop])

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def serve() -> Iterator[object]:
    """Return a function that starts a `Server`."""
    started: list[Server] = []

    def start(content: bytes, **options: object) -> Server:
        server = Server(content, **options)  # type: ignore[arg-type]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def packed(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


TAR = packed({"LibriSpeech/README.TXT": b"read me", "LibriSpeech/dev/1/a.flac": bytes(range(256)) * 40})
DEV = Archive("12/dev.tar.gz", f"md5:{hashlib.md5(TAR).hexdigest()}", "LibriSpeech/dev")


def test_an_archive_is_unpacked_and_what_is_there_is_not_fetched_again(serve, tmp_path):
    server = serve(TAR)

    found = fetch(DEV, tmp_path, server.url)
    again = fetch(DEV, tmp_path, server.url)

    assert found == again == tmp_path / "LibriSpeech/dev"
    assert len((found / "1/a.flac").read_bytes()) == 10240
    assert (tmp_path / "LibriSpeech/README.TXT").read_bytes() == b"read me"
    assert server.asked == [None]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "LibriSpeech"]


def test_a_transfer_that_is_cut_off_goes_on_where_it_was(serve, tmp_path):
    server = serve(TAR, at_most=len(TAR) // 3 + 1)

    fetch(DEV, tmp_path, server.url)

    step = len(TAR) // 3 + 1
    assert server.asked == [None, f"bytes={step}-", f"bytes={2 * step}-"]


def test_what_a_killed_run_has_brought_is_not_brought_again(serve, tmp_path):
    (tmp_path / "dev.tar.gz.part").write_bytes(TAR[:100])
    (tmp_path / ".unpack.killed").mkdir()
    server = serve(TAR)

    fetch(DEV, tmp_path, server.url)

    assert server.asked == ["bytes=100-"]
    assert not list(tmp_path.glob(".unpack*"))


def test_a_transfer_that_lacks_nothing_but_its_check_is_not_repeated(serve, tmp_path):
    (tmp_path / "dev.tar.gz.part").write_bytes(TAR)

    assert fetch(DEV, tmp_path, serve(TAR).url).is_dir()


def test_a_server_without_ranges_sends_all_of_it_again(serve, tmp_path):
    (tmp_path / "dev.tar.gz.part").write_bytes(b"x" * 100)

    assert fetch(DEV, tmp_path, serve(TAR, knows_range=False).url).is_dir()


def test_a_wrong_checksum_is_refused_and_named_and_the_next_run_begins_anew(serve, tmp_path):
    bad = bytes(len(TAR))

    with pytest.raises(
        PqmError, match="dev.tar.gz has md5 [0-9a-f]{32} instead of .*was removed: run the same command"
    ):
        fetch(DEV, tmp_path, serve(bad).url)

    assert not (tmp_path / "LibriSpeech").exists()
    assert fetch(DEV, tmp_path, serve(TAR).url).is_dir()


def test_an_archive_that_the_user_brought_is_taken_and_kept_and_checked(serve, tmp_path):
    (tmp_path / "dev.tar.gz").write_bytes(TAR)

    fetch(DEV, tmp_path, "http://127.0.0.1:1")

    assert (tmp_path / "dev.tar.gz").exists()
    shutil.rmtree(tmp_path / "LibriSpeech")
    (tmp_path / "dev.tar.gz").write_bytes(b"other")
    with pytest.raises(PqmError, match="dev.tar.gz has md5 .*: remove .*dev.tar.gz to have it fetched"):
        fetch(DEV, tmp_path, "http://127.0.0.1:1")


def test_a_server_that_is_down_says_in_one_line_what_to_fetch_and_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.setenv(MIRROR, "http://127.0.0.1:1/mirror/")

    with pytest.raises(PqmError) as raised:
        fetch(DEV, tmp_path)

    said = str(raised.value)
    assert said.startswith("http://127.0.0.1:1/mirror/12/dev.tar.gz cannot be fetched (")
    assert f"download it by other means to {tmp_path / 'dev.tar.gz'}" in said and "\n" not in said


def test_a_disk_that_is_too_small_is_named_before_anything_is_brought(serve, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10, 9, 1))

    with pytest.raises(PqmError, match=r"dev.tar.gz needs 0\.0 GB and 0\.0 GB are free: free some space"):
        fetch(DEV, tmp_path, serve(TAR).url)

    assert not (tmp_path / "dev.tar.gz.part").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no tar", "cannot be unpacked"),
        (TAR[:-200], "cannot be unpacked"),
        (packed({"../../evil": b"x"}), "cannot be unpacked .*outside the destination"),
        (packed({"LibriSpeech/other/a": b"x"}), "holds no LibriSpeech/dev: remove it"),
    ],
)
def test_an_archive_that_does_not_do_leaves_nothing_behind(tmp_path, content, words):
    (tmp_path / "dev.tar.gz").write_bytes(content)
    archive = Archive("12/dev.tar.gz", f"sha256:{hashlib.sha256(content).hexdigest()}", "LibriSpeech/dev")

    with pytest.raises(PqmError, match=words):
        fetch(archive, tmp_path)

    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "dev.tar.gz"]
