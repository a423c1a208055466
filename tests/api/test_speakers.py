"""Speakers who are enrolled and forgotten over the API, and heard with at once."""

import json
import shutil

import pytest

from pqm_plugin.files import read_json, write_json
from tests.api.conftest import KEY
from tests.page.serving import PATIENCE_MS
from tests.personal.conftest import TEXTS, noise

httpx = pytest.importorskip("httpx", reason="no httpx: pip install 'pqm_plugin[serve]'")
pytestmark = pytest.mark.slow
SETTINGS = {"enroll": {"rank": 1, "epochs": 2, "few_epochs": 1, "learning_rate": 0.05}}


@pytest.fixture(scope="module")
def client(served):
    """A client that shows the key; small settings, for six careful epochs teach noise nothing."""
    about = served.model / "about.json"
    write_json(about, (read_json(about) if about.exists() else {}) | SETTINGS)
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=f"{served.url}v1/", headers=headers, timeout=PATIENCE_MS / 1000) as made:
        yield made


@pytest.fixture
def clips(tmp_path):
    """Six recordings as parts of a form."""
    import soundfile

    parts = []
    for place in range(6):
        soundfile.write(tmp_path / f"{place}.wav", noise(20 + place), 16000)
        parts.append(("file", (f"{place}.wav", (tmp_path / f"{place}.wav").read_bytes())))
    return parts


def events(answer) -> list[dict]:
    """What the server sent, without the mark of its end."""
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def test_a_speaker_is_enrolled_with_events_heard_with_learned_anew_if_that_is_said_and_forgotten(
    client, served, clips, speech
):
    def heard():
        return client.post("audio/transcriptions", data={"model": "eve"}, files={"file": speech[0].read_bytes()})

    before = heard()
    learned = events(client.post("speakers/eve", files=clips, data={"text": TEXTS}))
    first = heard()
    again = client.post("speakers/eve", files=clips, data={"text": TEXTS})
    anew = events(client.post("speakers/eve", files=clips[::-1], data={"text": TEXTS, "anew": "true"}))
    listed = [each["id"] for each in client.get("models").json()["data"]]
    gone = client.delete("speakers/eve")

    assert before.status_code == 404 and first.status_code == 200
    assert learned[0]["type"] == "speaker.progress" and learned[-1]["type"] == "speaker.done"
    assert (learned[-1]["n_clips"], learned[-1]["duration"], learned[-1]["is_new"]) == (6, 6.0, True)
    assert again.status_code == 409 and "anew=true" in again.json()["error"]["message"]
    assert anew[-1]["is_new"] and "eve" in listed
    assert gone.json() == {"id": "eve", "object": "model", "deleted": True}
    assert heard().status_code == 404 and client.delete("speakers/eve").status_code == 404
    assert not list((served.model / "speakers").glob("*eve*/*"))
    assert not list(served.scratch.rglob("call_*"))


@pytest.mark.parametrize(
    ("data", "files", "why"),
    [
        ({"text": TEXTS[:2]}, "clips", "6 recordings and 2 texts"),
        ({"text": TEXTS}, [], "send"),
        ({"anew": "maybe"}, "clips", "true or false"),
    ],
)
def test_what_cannot_be_learned_from_is_an_error_before_anything_is_done(data, files, why, client, clips, served):
    sent = clips if files == "clips" else [("other", b"x")]

    answer = client.post("speakers/eve", files=sent, data=data)

    assert answer.status_code == 400 and why in answer.json()["error"]["message"]
    assert not (served.model / "speakers/eve").exists()


def test_a_recording_that_is_no_sound_is_called_by_its_place(client, clips):
    clips[3] = ("file", ("private name.wav", b"no sound"))

    told = events(client.post("speakers/eve", files=clips, data={"text": TEXTS}))

    assert "recording 4" in told[-1]["error"]["message"] and "private" not in told[-1]["error"]["message"]


def test_whoever_leaves_while_a_voice_is_learned_ends_it(client, served, clips):
    about = served.model / "about.json"
    kept = read_json(about)
    write_json(about, kept | {"enroll": SETTINGS["enroll"] | {"epochs": 10_000, "patience": 0}})
    try:
        with client.stream("POST", "speakers/eve", files=clips, data={"text": TEXTS}) as answer:
            next(answer.iter_lines())
        # The turn is free again: otherwise this would wait for ten thousand epochs.
        write_json(about, kept)
        done = events(client.post("speakers/fay", files=clips[:2], data={"text": TEXTS[:2]}))
    finally:
        write_json(about, kept)

    assert done[-1]["type"] == "speaker.done"
    assert not (served.model / "speakers/eve").exists()
    assert client.delete("speakers/fay").status_code == 200
    shutil.rmtree(served.model / "speakers/eve", ignore_errors=True)
