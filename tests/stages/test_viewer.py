"""`report.html` of stage 8: what is in it, and how it is used, in a real Chromium.

`PQM_SCREENSHOTS=docs/images` makes the picture of docs/read_the_results.md anew.
"""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pqm_plugin.corpus.kaldi import write_data_folder
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.files import read_json, write_json
from pqm_plugin.metrics.sclite import write_trn
from pqm_plugin.report.figures import bytes_figure
from pqm_plugin.stages.common import viewing
from pqm_plugin.stages.recipe import Recipe
from pqm_plugin.stages.report import run, viewed
from pqm_plugin.stages.report import write_viewer as write
from pqm_plugin.stages.score import score_set
from tests.page.serving import browsing

TEXTS = {
    "ann-1": "the cat sat",
    "ann-2": "</script><script>document.title='broken'</script> <b>bold</b>",
    "bob-1": "turn left at the gate",
    "bob-2": "open the door",
}
SPEAKERS = {name: name[:3] for name in TEXTS}
HEARD = {
    "full": TEXTS | {"ann-1": "the hat sat", "bob-1": "turn at the the late"},
    "nf4": TEXTS | {"ann-1": "the hat sat", "bob-1": "turn at the late"},
    "nf4+speaker": TEXTS | {"bob-1": "turn left at the the gate"},
}


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    """A recipe of which stages 6 and 7 are done: two speakers, two utterances each, three systems."""
    made = Recipe(
        base="asr_tiny", target_set="test", expdir=tmp_path / "exp", datadir=tmp_path / "data", title="Two <voices>"
    )
    for place, name in enumerate(TEXTS):
        tone = 0.1 * np.sin(np.arange(8000 * (place + 1)) * 0.05 * (place + 1))
        (tmp_path / "wav dir").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "wav dir" / f"{name}.wav", tone, 16000)
    audio = {name: str(tmp_path / "wav dir" / f"{name}.wav") for name in TEXTS}
    write_data_folder(made.data("test"), [Utterance(name, SPEAKERS[name], TEXTS[name], audio[name]) for name in TEXTS])
    for system, heard in HEARD.items():
        folder = made.decode_dir(system, "test")
        write_trn(folder / "ref.trn", TEXTS, SPEAKERS)
        write_trn(folder / "hyp.trn", heard, SPEAKERS)
        (folder / "utt2spk").write_text("".join(f"{name} {speaker}\n" for name, speaker in SPEAKERS.items()))
        sizes = {"model_bytes": 10**7 if system == "full" else 10**6, "adapter_bytes": 0, "adapter_fraction": 0.0}
        record = {"system": system, "utterances": len(TEXTS), "rtf": 0.5, "peak_rss_bytes": 1000} | sizes
        write_json(folder / "run.json", record)
    meta = {"set": "test", "family": "tiny", "decoding": "greedy", "base": "asr_tiny", "seed": 1}
    meta |= {name: "invented" for name in ("corpus", "command", "commit", "hardware", "date", "base_sha256")}
    score_set(made.packed_dir, "test", meta | {"versions": {}}, 1, made.packed_dir / "results.json", 200)
    bytes_figure(read_json(made.packed_dir / "results.json"), made.packed_dir / "figures/wer_by_bytes.svg", "")
    return made


def write_viewer(recipe: Recipe, figures_of: Path) -> Path:
    """The page of a recipe."""
    return write(recipe, figures_of, viewed(recipe, figures_of))


def embedded(page: Path) -> dict:
    """The data of a page."""
    [found] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.S)
    return json.loads(found)["sections"][0]


def test_stage_8_writes_the_page_and_the_same_input_gives_the_same_bytes(recipe, capsys):
    run(recipe)

    page = recipe.packed_dir / "report.html"
    before = page.read_bytes()
    assert f"{page}: open it in a browser" in capsys.readouterr().out
    run(recipe)
    assert page.read_bytes() == before


def test_stage_8_ends_with_one_recording_before_and_after_and_the_command_to_type(recipe, capsys):
    run(recipe)

    *_, title, said, before, after, following = capsys.readouterr().out.splitlines()
    assert title.startswith("ann-1, the first test recording on which they differ")
    assert said == "  said    the cat sat"
    assert before == "  before  the *hat* sat   (the base in full precision)"
    assert after == "  after   the cat sat   (the base in 4 bits, with the speaker's own LoRA)"
    audio = recipe.datadir.parent / "wav dir" / "ann-1.wav"
    program, _, rest = following.removeprefix("next: ").partition(" ")
    assert Path(program).name == "pqm" and rest == f"transcribe {recipe.packed_dir} '{audio}' --speaker ann"


def test_words_are_aligned_errors_are_those_of_the_table_and_every_speaker_has_an_interval(recipe):
    section = embedded(write_viewer(recipe, recipe.packed_dir))

    assert [one["key"] for one in section["systems"]] == ["full", "nf4", "nf4+speaker"]
    by_name = {one["id"]: one for one in section["utterances"]}
    assert by_name["ann-1"]["hyps"] == [[1, ["S", "hat"], 1], [1, ["S", "hat"], 1], [3]]
    assert by_name["bob-1"]["hyps"][2] in ([4, ["I", "the"], 1], [3, ["I", "the"], 2])
    for place, system in enumerate(read_json(recipe.packed_dir / "results.json")["systems"].values()):
        shown = sum(not isinstance(step, int) for one in section["utterances"] for step in one["hyps"][place])
        assert shown == system["errors"]
    wer, low, high = next(one for one in section["speakers"] if one["name"] == "bob")["systems"]["full"]
    assert wer == 3 / 8 and 0 <= low <= wer <= high


def test_nothing_in_the_page_is_loaded_from_elsewhere_and_no_text_of_the_corpus_is_markup(recipe):
    text = write_viewer(recipe, recipe.packed_dir).read_text()

    assert "http://" not in text.replace("http://www.w3.org", "") and "https://" not in text
    assert text.count("</script>") == 2
    assert "<title>Two &lt;voices&gt;</title>" in text


def test_sound_beyond_the_bound_is_linked_relative_to_the_page_those_that_differ_come_first(recipe, monkeypatch):
    monkeypatch.setattr(viewing, "MOST_SOUND_BYTES", 8_000)

    page = write_viewer(recipe, recipe.packed_dir)

    section = embedded(page)
    kinds = {one["id"]: one["audio"][0] for one in section["utterances"]}
    assert kinds["ann-1"] == "o" and kinds["bob-2"] == "l"
    link = next(one["audio"][1] for one in section["utterances"] if one["id"] == "bob-2")
    assert (page.parent / link.replace("%20", " ")).resolve().is_file() and "%20" in link
    assert "is linked: keep the page where it is" in section["audio"]


def test_recordings_that_are_gone_cost_their_sound_and_decodes_that_are_not_scored_their_words(recipe, caplog):
    shutil.rmtree(recipe.datadir.parent / "wav dir")
    page = write_viewer(recipe, recipe.packed_dir)
    assert all("audio" not in one for one in embedded(page)["utterances"])
    assert "lacks the sound of 4 utterances" in caplog.text

    folder = recipe.decode_dir("full", "test")
    write_trn(folder / "hyp.trn", TEXTS, SPEAKERS)
    page = write_viewer(recipe, recipe.packed_dir)

    assert embedded(page)["utterances"] == []
    assert "full was decoded again; run stage 7 (score) first" in caplog.text


@pytest.mark.slow
def test_in_a_browser_the_page_sorts_filters_marks_and_plays_and_asks_for_nothing(recipe, tmp_path):
    page_file = write_viewer(recipe, recipe.packed_dir)

    with browsing() as browser:
        context = browser.new_context(viewport={"width": 1100, "height": 900})
        window = context.new_page()
        asked, wrong = [], []
        window.on("request", lambda request: asked.append(request.url))
        window.on("pageerror", lambda error: wrong.append(str(error)))
        window.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        window.goto(page_file.as_uri())

        assert window.title() == "Two <voices>"
        assert window.inner_text("#count") == "4 of 4 utterances"
        first = "#systems tbody tr:first-child code"
        window.click("#systems th button:has-text('WER %')")
        assert window.inner_text(first) == "nf4+speaker"
        window.click("#systems th button:has-text('WER %')")
        assert window.inner_text(first) == "full"
        assert window.get_attribute("#systems th:nth-child(3)", "aria-sort") == "descending"
        assert window.locator(".figures img").evaluate("image => image.naturalWidth") > 100

        window.check("#differs")
        assert window.inner_text("#count") == "2 of 4 utterances"
        window.select_option("#speaker", "ann")
        assert window.inner_text("#count") == "1 of 4 utterances"
        marks = window.locator("article[data-utterance=ann-1] mark")
        assert marks.all_inner_texts() == ["hat"]
        assert marks.first.get_attribute("title") == "instead of cat"
        window.uncheck("#differs")
        assert "<b>bold</b>" in window.inner_text("article[data-utterance=ann-2]")
        window.click("#speakers button:has-text('bob')")
        assert window.inner_text("#count") == "2 of 4 utterances"
        window.select_option("#second", "nf4")
        row = window.locator("article[data-utterance=bob-1]")
        assert row.locator("del").first.inner_text() == "left"
        assert window.locator(".bar.a span").first.inner_text().startswith("37.50 [")

        row.locator("button").click()
        window.wait_for_function("() => player.currentTime > 0 || player.ended", timeout=60_000)
        assert window.evaluate("() => player.error") is None
        assert abs(window.evaluate("() => player.duration") - 1.5) < 0.1
        assert wrong == []
        assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
        assert [url for url in asked if url.startswith("file")] == [page_file.as_uri()]


@pytest.mark.slow
def test_in_a_browser_linked_sound_is_played(recipe, monkeypatch):
    monkeypatch.setattr(viewing, "MOST_SOUND_BYTES", 0)
    page_file = write_viewer(recipe, recipe.packed_dir)

    with browsing() as browser:
        window = browser.new_page()
        window.goto(page_file.as_uri())
        window.click("article[data-utterance=bob-2] button")
        window.wait_for_function("() => player.currentTime > 0 || player.ended", timeout=60_000)


@pytest.mark.skipif("PQM_SCREENSHOTS" not in os.environ or "PQM_REPORT" not in os.environ, reason="makes a picture")
def test_a_picture_of_a_recipes_page():
    with browsing() as browser:
        window = browser.new_page(viewport={"width": 1100, "height": 1500})
        window.goto(Path(os.environ["PQM_REPORT"]).resolve().as_uri())
        window.check("#differs")
        window.screenshot(path=Path(os.environ["PQM_SCREENSHOTS"]) / "report.png")
