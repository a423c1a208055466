"""The page as its users see it: a real Chromium, real speech as its microphone, the real Conformer behind it.

`PQM_SCREENSHOTS=docs/images` makes the pictures of docs/page.md anew.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile

from pqm_plugin.files import read_json, write_json
from pqm_plugin.personal.making import quantize
from tests.page.serving import PATIENCE_MS, Served, browsing, drop, serving, wait_until_held
from tests.page.watched import is_here

pytestmark = [pytest.mark.slow, pytest.mark.real]
CHAPTER = "data/LibriSpeech/dev-clean/84/121123"
READ = ("0009", "0013")
BROUGHT = ("0003", "0010")
HEARD = "0027"
# A narrow search and a few bold steps, judged by the two recordings themselves: quick, and better than nothing.
SETTINGS = {
    "decode": {"beam_size": 4, "ctc_weight": 0.5},
    "enroll": {"few_epochs": 3, "learning_rate": 0.002},
}


def texts(shared: Path) -> dict[str, str]:
    """What is said in each recording of the chapter, by the last part of its name."""
    [listing] = (shared / CHAPTER).glob("*.trans.txt")
    lines = (line.partition(" ") for line in listing.read_text().splitlines())
    return {name.rpartition("-")[2]: text.lower() for name, _, text in lines}


def recording(shared: Path, name: str) -> Path:
    return shared / CHAPTER / f"84-121123-{name}.flac"


@pytest.fixture(scope="module")
def served(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`pqm serve` on a free port, with the real Conformer in 4 bits."""
    pytest.importorskip("gradio", reason="no gradio: pip install 'pqm_plugin[serve]'")
    folder = tmp_path_factory.mktemp("served")
    quantize(str(shared / "models/conformer_small"), folder / "model", licence="CC BY 4.0")
    about = folder / "model/about.json"
    write_json(about, read_json(about) | SETTINGS)
    with serving(folder) as found:
        yield found


@pytest.fixture(scope="module")
def chromium(shared: Path, tmp_path_factory: pytest.TempPathFactory):
    """A headless Chromium whose microphone says the reading of `READ`, over and over."""
    microphone = tmp_path_factory.mktemp("microphone") / "speech.wav"
    samples, rate = soundfile.read(recording(shared, READ[0]))
    soundfile.write(microphone, np.concatenate([samples, np.zeros(rate)]), rate, subtype="PCM_16")
    with browsing(microphone) as browser:
        yield browser


@pytest.fixture
def page(served: Served, chromium):
    """A window of its own on the page; whatever it and the server asked for was on this machine."""
    context = chromium.new_context(viewport={"width": 1100, "height": 780}, permissions=["microphone"])
    context.set_default_timeout(PATIENCE_MS)
    window = context.new_page()
    urls: list[str] = []
    wrong: list[str] = []
    window.on("request", lambda request: urls.append(request.url))
    window.on("pageerror", lambda error: wrong.append(str(error)))
    window.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    window.goto(served.url, wait_until="commit")
    window.wait_for_selector("#hear")
    yield window
    context.close()
    elsewhere = [
        url for url in urls if urlsplit(url).scheme not in ("data", "blob") and not is_here(urlsplit(url).hostname)
    ]
    assert len(urls) > 5 and elsewhere == []
    assert served.asked.read_text() == "", "the server asked another machine"
    # The player says so of a file that is not an audio.
    assert [each for each in wrong if "Waveform load error" not in each] == []


def note_progress(page) -> None:
    """Collect what the progress bar says: it may be gone before we look."""
    page.evaluate(
        """() => {
            window.progress = new Set();
            const look = () => document.querySelectorAll(".progress-level-inner, .progress-text, [class*=progress]")
                .forEach(each => window.progress.add(each.textContent.replace(/\\s+/g, " ").trim()));
            new MutationObserver(look).observe(document.body, {subtree: true, childList: true, characterData: true});
        }"""
    )


def picture(page, name: str, tmp_path: Path) -> None:
    """Keep what the page looks like now, small enough for a checkout."""
    folder = Path(os.environ.get("PQM_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"page_{name}.png"
    page.screenshot(path=path, full_page=True)
    assert path.stat().st_size < 150_000


def record(page, place: str, duration_s: float) -> None:
    """Speak into the microphone for some seconds."""
    page.locator(place).get_by_role("button", name="Record", exact=True).click()
    stop = page.locator(place).get_by_role("button", name="Stop", exact=True).first
    stop.wait_for()
    page.wait_for_timeout(1000 * duration_s)
    with page.expect_response(lambda response: "/upload" in response.url):
        stop.click()
    wait_until_held(page, place)


def words(page, side: str) -> str:
    return page.locator(f'.pqm-side[aria-label="{side}"] .pqm-words').inner_text()


def overlap(one: str, other: str) -> float:
    """Share of the words of `one` that `other` has."""
    return len(set(one.split()) & set(other.split())) / len(set(one.split()))


def test_a_dropped_file_and_the_microphone_are_written_down(page, shared):
    page.locator("#recording").get_by_role("button", name="Upload file").click()
    drop(page, "#recording", recording(shared, HEARD))
    page.click("#hear")
    page.wait_for_selector(".pqm-side")
    dropped = words(page, "Anyone")
    speed = page.locator(".pqm-facts").inner_text()

    page.reload()
    page.wait_for_selector("#hear")
    record(page, "#recording", 3.5)
    page.click("#hear")
    page.wait_for_selector(".pqm-side")

    assert overlap(texts(shared)[HEARD], dropped) > 0.6
    assert overlap(texts(shared)[READ[0]], words(page, "Anyone")) > 0.5
    assert "for 3.1 s of speech" in speed and "Real-time factor" in speed


def test_a_speaker_is_enrolled_and_what_changes_is_shown(page, shared, served, tmp_path):
    said = texts(shared)
    listed = tmp_path / "text"
    listed.write_text("".join(f"84-121123-{name} {said[name]}\n" for name in BROUGHT))
    page.get_by_role("tab", name="Teach a voice").click()
    page.locator("#name input, #name textarea").fill("84")
    page.get_by_role("tab", name="Bring recordings").click()
    drop(page, "#files", *(recording(shared, name) for name in BROUGHT))
    drop(page, "#texts", listed)

    note_progress(page)
    page.click("#learn-files")
    page.wait_for_selector(".pqm-done, .toast-body")
    done = page.locator(".pqm-done").inner_text()
    told = page.evaluate("[...window.progress]")
    page.get_by_role("tab", name="Hear").click()
    page.locator("#recording").get_by_role("button", name="Upload file").click()
    drop(page, "#recording", recording(shared, HEARD))
    page.locator("#speaker input").click()
    page.get_by_role("option", name="84").click()
    page.click("#hear")
    page.wait_for_selector('.pqm-side[aria-label="After"]')

    assert any("Learning the voice of 84" in text for text in told), told
    assert done.startswith("84 was learned from 2 recordings")
    assert (served.model / "speakers/84/adapter_model.safetensors").is_file()
    before, after = words(page, "Before"), words(page, "After")
    assert overlap(said[HEARD], before) > 0.6
    marks = page.locator(".pqm-words del, .pqm-words ins").count()
    assert (marks > 0) == (before != after)
    assert ("differ" in page.locator(".pqm-changes").inner_text()) == (before != after)
    picture(page, "hear", tmp_path)
    page.get_by_role("tab", name="Sizes").click()
    page.get_by_text("speakers/84").wait_for()
    picture(page, "sizes", tmp_path)


def test_a_reader_keeps_sentences_and_a_wrong_name_is_said_in_words(page, shared, served, tmp_path):
    page.get_by_role("tab", name="Teach a voice").click()
    sentence = page.locator("#sentence textarea")
    first = sentence.input_value()
    sentence.fill(texts(shared)[READ[0]])
    record(page, "#reading", 3.5)
    page.click("#keep")
    page.locator("#kept li").wait_for()
    page.wait_for_function(
        "first => !['', first].includes(document.querySelector('#sentence textarea').value)", arg=first
    )
    second = sentence.input_value()
    record(page, "#reading", 1.0)
    page.click("#keep")
    page.locator("#kept li").nth(1).wait_for()
    picture(page, "teach", tmp_path)

    page.locator("#name input, #name textarea").fill("../84")
    page.click("#learn-script")
    toast = page.get_by_text("cannot be a folder name")
    toast.wait_for()

    assert texts(shared)[READ[0]] in page.locator("#kept li").nth(0).inner_text()
    assert second in page.locator("#kept li").nth(1).inner_text()
    assert "Sentence 3 of" in page.locator("#where").inner_text()
    assert not (served.model.parent / "84").exists()


def test_a_file_that_is_no_audio_is_refused_in_words(page, served, tmp_path):
    (tmp_path / "no_audio.wav").write_bytes(b"no audio at all")

    page.locator("#recording").get_by_role("button", name="Upload file").click()
    drop(page, "#recording", tmp_path / "no_audio.wav")
    page.click("#hear")

    page.get_by_text("no_audio.wav is not audio").wait_for()
