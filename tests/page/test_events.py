"""What a press of each button does, without a browser."""

import pytest
import soundfile

from pqm_plugin.errors import PqmError
from pqm_plugin.page.events import ANYONE, Events
from tests.corpus.test_channels import turns, voice
from tests.page.fakes import write_adapter, write_speech


@pytest.fixture
def events(desk):
    return Events(desk, ("go on", "stop now"))


def nothing(*_):
    """Nobody watches."""


def test_anyone_and_those_who_are_enrolled_can_be_chosen(events, fake):
    write_adapter(fake.folder.path / "speakers/zoe", "x")
    write_adapter(fake.folder.path / "speakers/ada", "x")

    assert events.speakers() == [("Anyone", ANYONE), ("ada", "ada"), ("zoe", "zoe")]


def test_a_recording_is_shown_before_and_after_with_one_bar_for_both(events, fake, tmp_path):
    write_adapter(fake.folder.path / "speakers/ada", "x")
    told = []

    shown = events.hear("ada", str(write_speech(tmp_path / "a.wav", 1.0)), lambda *step: told.append(step))

    assert "words <del>none 1</del>" in shown and "words <ins>ada 2</ins>" in shown
    assert [part for part, _ in told] == [0.0, 0.25, 0.5, 0.5, 0.75, 1.0]
    assert told[-1][1] == "Hearing it as ada's"


def test_anyone_is_heard_once(events, fake, tmp_path):
    told = []

    shown = events.hear(ANYONE, str(write_speech(tmp_path / "a.wav", 1.0)), lambda part, _: told.append(part))

    assert "words none 1" in shown and told == [0.0, 0.5, 1.0] and fake.heard == ["none"]


def test_a_speaker_reads_and_is_known_from_then_on(events, fake, tmp_path):
    script, told = events.script(), []
    for place in range(2):
        sound = write_speech(tmp_path / f"{place}.wav", 1.0, seed=place)
        script = events.keep(script, f"  {script.sentence}  !", str(sound))
    kept = events.read_so_far(script)

    said = events.learn_script("me", "ada", False, script, lambda *step: told.append(step))

    assert "2 recordings, 2 s." in kept and "go on !" in kept
    assert fake.learned == [("ada", [16000, 16000], ["go on !", "stop now !"])]
    assert "<strong>ada</strong> was learned from 2 recordings, 2 s" in said and "7 parameters" in said
    assert told[-1] == (1.0, "Learning the voice of ada: 3 of at most 3 steps")
    assert ("ada", "ada") in events.speakers()


def test_recordings_are_brought_with_a_text_beside_each_or_with_a_list(events, fake, tmp_path):
    for folder in "abcd":
        (tmp_path / folder).mkdir()
    sounds = [str(write_speech(tmp_path / "a/one.wav", 1.0)), str(write_speech(tmp_path / "b/two.wav", 0.5))]
    (tmp_path / "c/two.txt").write_text("stop now\n")
    (tmp_path / "d/list").write_text("one go on\ntwo stop\n")

    events.learn_uploads("me", "ada", False, [*sounds, str(tmp_path / "c/two.txt")], None, nothing)
    events.learn_uploads("me", "bob", False, sounds, str(tmp_path / "d/list"), nothing)
    events.learn_uploads("me", "eve", False, sounds, None, nothing)

    assert [path.name for path in (tmp_path / "a").iterdir()] == ["one.wav"]
    assert fake.learned == [
        ("ada", [8000], ["stop now"]),
        ("bob", [16000, 8000], ["go on", "stop"]),
        ("eve", [16000, 8000], None),
    ]


def test_what_is_wrong_with_recordings_is_said_without_the_pages_folders(events, fake, tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
    one, same = (str(write_speech(tmp_path / f"{folder}/one.wav", 1.0)) for folder in "ab")
    (tmp_path / "list").write_text("ghost go on\n")
    (tmp_path / "one.txt").write_text("go on\n")

    for files, texts, why in (
        ([one, same], None, "two of the files are named one.wav"),
        ([one], str(tmp_path / "list"), "list names none of the 1 recordings"),
        ([str(tmp_path / "one.txt")], None, "no recordings there"),
        (None, None, "drop some first"),
    ):
        with pytest.raises(PqmError, match=why) as caught:
            events.learn_uploads("me", "ada", False, files, texts, nothing)
        assert "/" not in str(caught.value) and "together_" not in str(caught.value)
    assert fake.learned == []


def test_without_a_recording_it_is_said_what_to_do(events):
    with pytest.raises(PqmError, match="record something, or drop a file"):
        events.hear(ANYONE, None, nothing)
    with pytest.raises(PqmError, match="press the microphone"):
        events.keep(events.script(), "go on", None)
    assert events.stop("me") == "Nothing of yours is being learned."


def test_the_sizes_are_read_when_they_are_asked_for(events, fake):
    before = events.facts()
    write_adapter(fake.folder.path / "speakers/ada", "x")

    assert "No adapters yet." in before and "speakers/ada" in events.facts()


def test_two_people_on_two_channels_are_said_above_the_words_and_when_learned_from(events, tmp_path):
    path = tmp_path / "call.wav"
    soundfile.write(path, turns(voice(0, 0.95), voice(1, 0.95)), 16000)
    say = "call.wav: its channels differ as those of two people do"

    heard = events.hear(ANYONE, str(path), nothing)
    learned = events.learn_uploads("me", "zoe", False, [str(path)], None, nothing)

    for shown in (heard, learned):
        assert say in shown and "bring each channel as a file of its own" in shown and str(tmp_path) not in shown
    soundfile.write(path, voice(0, 1.9), 16000)
    assert say not in events.hear(ANYONE, str(path), nothing)
