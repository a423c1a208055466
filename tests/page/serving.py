"""Run `pqm serve` as a process of its own, as its users do."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Of a busy machine; every wait ends as soon as what is awaited is there.
PATIENCE_MS = 240_000
_FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--use-fake-ui-for-media-stream"),
    "--use-fake-device-for-media-stream",
)


@dataclass(frozen=True)
class Served:
    """A running page: where it is, the model's folder, what its process asked of other machines, and its scratch.

    `others`: the lines that it says of what is beside the page.
    """

    url: str
    model: Path
    asked: Path
    scratch: Path
    others: tuple[str, ...] = ()
    log: Path = Path()
    pid: int = 0


@contextmanager
def serving(folder: Path, *options: str, model: str = "model") -> Iterator[Served]:
    """Serve the model in `folder/MODEL` on a free port; whatever else the page keeps is in `folder`, and goes with it.

    Raises:
        AssertionError: if it does not start, with its log, or leaves something behind.
    """
    program = [sys.executable, ROOT / "tests/page/watched.py", folder / "asked", "serve", folder / model]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*map(str, program), "--port", "0", "--threads", "1", *options],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
        )
        try:
            assert process.stdout is not None
            ready = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
            assert ready, (folder / "log").read_text()
            others = tuple(process.stdout.readline().strip() for name in ("--api", "--wyoming") if name in options)
            [scratch] = folder.glob("pqm_page_*")
            known = folder / model, folder / "asked", scratch
            yield Served(ready[0], *known, others, folder / "log", process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_MS / 1000)
    assert sorted(path.name for path in folder.iterdir()) == sorted(["asked", "log", model]), (
        "something was left behind"
    )


@contextmanager
def browsing(microphone: Path | None = None) -> Iterator:
    """A headless Chromium, whose microphone says what the WAV file does, over and over; skips where there is none."""
    sync = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install 'pqm_plugin[test]'")
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no Chromium: `tools/chromium_here.sh` as root installs it, or name one with CHROMIUM=/path/to/it")
    heard = [f"--use-file-for-fake-audio-capture={microphone}"] if microphone else []
    with sync.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=[*_FLAGS, *heard])
        yield browser
        browser.close()


def drop(page, place: str, *files: Path) -> None:
    """Give files to the place of that name, and wait until they have arrived."""
    with page.expect_response(lambda response: "/upload?" in response.url or response.url.endswith("/upload")):
        page.set_input_files(f"{place} input[type=file]", [str(file) for file in files])
    wait_until_held(page, place)


def wait_until_held(page, place: str) -> None:
    """Wait until the place offers to clear what it holds: the answer to an upload comes before that."""
    page.locator(place).get_by_role("button", name="Clear").first.wait_for()
