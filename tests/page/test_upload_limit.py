"""The largest upload (`--max_upload`) of the page as it is served: what the server refuses, and what a user sees."""

import http.client
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pqm_plugin.personal.making import quantize
from tests.page.fakes import write_speech
from tests.page.serving import PATIENCE_MS, Served, browsing, drop, serving

pytestmark = pytest.mark.slow
MOST_BYTES = 100_000
TOO_LARGE = 'File(s) exceed the maximum allowed size of 97.7 Kb: "large.wav"'


@pytest.fixture(scope="module")
def served(tiny_conformer: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`pqm serve` of a tiny model, which takes a tenth of a megabyte."""
    pytest.importorskip("gradio", reason="no gradio: pip install 'pqm_plugin[serve]'")
    folder = tmp_path_factory.mktemp("served")
    quantize(str(tiny_conformer), folder / "model")
    with serving(folder, "--max_upload", str(MOST_BYTES / 1e6)) as found:
        yield found


@pytest.fixture(scope="module")
def window(served):
    """The page in a browser."""
    with browsing() as browser:
        page = browser.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.goto(served.url, wait_until="commit")
        page.wait_for_selector("#hear")
        yield page


def upload(served: Served, **files: bytes) -> tuple[int, str]:
    """Send files to the page in one request, as its script in a browser does; gives status and answer."""
    boundary = secrets.token_hex(16)
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}.wav"\r\n'
        f"Content-Type: audio/wav\r\n\r\n".encode()
        + data
        + b"\r\n"
        for name, data in files.items()
    ]
    body = b"".join(parts) + f"--{boundary}--\r\n".encode()
    connection = http.client.HTTPConnection(urlsplit(served.url).netloc, timeout=PATIENCE_MS / 1000)
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}", "Origin": served.url.rstrip("/")}
    connection.request("POST", "/gradio_api/upload?upload_id=some", body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def kept(served: Served) -> set[Path]:
    """Every file that the server keeps of what was sent to it."""
    return {path for path in served.scratch.rglob("*") if path.is_file()}


def test_a_file_of_just_the_limit_is_taken(served):
    before, data = kept(served), secrets.token_bytes(MOST_BYTES)

    status, answer = upload(served, speech=data)

    [path] = json.loads(answer)
    assert status == 200
    assert kept(served) - before == {Path(path)} and Path(path).read_bytes() == data


@pytest.mark.parametrize("others", [{}, {"small": b"a file that would be taken"}], ids=["alone", "among others"])
def test_a_byte_more_is_refused_by_the_server_itself_and_nothing_of_the_request_stays(others, served):
    before = kept(served)

    status, answer = upload(served, **others, large=secrets.token_bytes(MOST_BYTES + 1))

    assert status == 413
    assert answer == f"File size exceeded maximum allowed size of {MOST_BYTES} bytes."
    assert kept(served) == before
    assert upload(served, small=b"taken as before")[0] == 200


def test_in_the_browser_a_file_above_it_is_named_with_the_limit_and_one_below_is_heard(served, window, tmp_path):
    large, small = (write_speech(tmp_path / name, length) for name, length in (("large.wav", 4.0), ("small.wav", 1.0)))
    before, place = kept(served), window.locator("#recording")
    assert small.stat().st_size < MOST_BYTES < large.stat().st_size

    place.get_by_role("button", name="Upload file").click()
    place.locator("input[type=file]").set_input_files(str(large))
    window.get_by_text(TOO_LARGE).wait_for()
    refused = kept(served)
    drop(window, "#recording", small)
    window.click("#hear")
    window.wait_for_selector(".pqm-side")

    assert refused == before
    assert {path.name for path in kept(served) - before} == {"small.wav"}


def test_among_recordings_to_learn_from_it_is_named_as_well(served, window, tmp_path):
    files = [write_speech(tmp_path / name, length) for name, length in (("small.wav", 1.0), ("large.wav", 4.0))]
    window.reload()
    window.get_by_role("tab", name="Teach a voice").click()
    window.get_by_role("tab", name="Bring recordings").click()

    window.locator("#files input[type=file]").set_input_files([str(file) for file in files])

    window.get_by_text(TOO_LARGE).wait_for()
