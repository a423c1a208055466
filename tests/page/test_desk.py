"""One model for all who use the page: heard together, learned in turns, within limits, nothing computed twice."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pqm_plugin.errors import PqmError
from pqm_plugin.page.desk import Desk, Reading
from pqm_plugin.page.guard import Limits
from tests.corpus.sounds import made, noise
from tests.page.fakes import write_adapter, write_speech
from tests.personal.conftest import packed

__all__ = ["packed"]


def nothing(*_):
    """Nobody watches."""


def test_before_is_not_computed_again_for_the_same_sound_and_after_only_for_another_adapter(desk, fake, tmp_path):
    sound, again = (write_speech(tmp_path / name, 1.0) for name in ("a.wav", "b.wav"))
    write_adapter(fake.folder.path / "speakers/ada", "one")

    first = desk.compare(sound, "ada", nothing)
    second = desk.compare(again, "ada", nothing)
    write_adapter(fake.folder.path / "speakers/ada", "two")
    third = desk.compare(sound, "ada", nothing)
    desk.compare(write_speech(tmp_path / "c.wav", 1.0, seed=1), None, nothing)

    assert fake.heard == ["none", "speakers/ada", "speakers/ada", "none"]
    assert (first.before.is_kept, second.before.is_kept, second.after.is_kept) == (False, True, True)
    assert second.after.transcript == first.after.transcript
    assert third.before.is_kept and not third.after.is_kept
    assert first.after.adapter_bytes == 3 and first.before.adapter_bytes == 0


def test_with_an_adapter_written_by_another_process_it_is_heard_anew_and_only_then(desk, fake, tmp_path):
    sound = write_speech(tmp_path / "a.wav", 1.0)
    write_adapter(fake.folder.path / "speakers/ada", "one")
    desk.compare(sound, "ada", nothing)
    desk.compare(sound, "ada", nothing)
    before = list(fake.heard)

    write_adapter(fake.folder.path / "speakers/ada", "two")
    desk.compare(sound, "ada", nothing)

    assert (before, fake.heard) == (["none", "speakers/ada"], ["none", "speakers/ada", "speakers/ada"])


def test_what_is_watched_goes_from_nothing_to_all_on_both_sides(desk, fake, tmp_path):
    write_adapter(fake.folder.path / "speakers/ada", "one")
    told = []

    desk.compare(write_speech(tmp_path / "a.wav", 1.0), "ada", lambda *step: told.append(step))

    assert told == [(side, part) for side in ("before", "after") for part in (0.0, 0.5, 1.0)]


def test_a_long_recording_is_refused_by_its_header_and_named_without_the_pages_folder(desk, fake, tmp_path):
    sound = write_speech(tmp_path / "long.wav", 5.0)

    with pytest.raises(PqmError, match=r"^long.wav lasts 5 s, the most is 4 s: cut it$"):
        desk.compare(sound, None, nothing)

    assert fake.heard == []


def test_a_small_file_that_would_fill_the_memory_is_refused(desk, tmp_path):
    sound = write_speech(tmp_path / "wide.wav", 3.9, n_channels=32, rate=8000)

    with pytest.raises(PqmError, match="wide.wav has 32 channels at 8000 Hz: mix it to mono"):
        desk.compare(sound, None, nothing)


def test_what_a_browser_records_is_heard_within_the_same_limit(desk, fake, tmp_path):
    (tmp_path / "a.webm").write_bytes(made("webm", noise(1.0, 48000)))
    (tmp_path / "b.m4a").write_bytes(made("m4a", noise(60.0)))

    desk.compare(tmp_path / "a.webm", None, nothing)

    with pytest.raises(PqmError, match="b.m4a lasts more than"):
        desk.compare(tmp_path / "b.m4a", None, nothing)


def test_what_is_no_audio_is_said_without_the_pages_folder(desk, tmp_path):
    (tmp_path / "a.wav").write_bytes(b"no audio")
    (tmp_path / "b.m4a").write_bytes(b"no audio")

    for name, why in (("a.wav", "is not audio"), ("b.m4a", "is not audio"), ("c.wav", "is missing")):
        with pytest.raises(PqmError, match=why) as caught:
            desk.compare(tmp_path / name, None, nothing)
        assert str(tmp_path) not in str(caught.value)


def test_recordings_with_texts_are_learned_and_those_without_left_out_unless_all_lack_them(desk, fake, tmp_path):
    one, two = write_speech(tmp_path / "a.wav", 1.0), write_speech(tmp_path / "b.wav", 0.5)

    desk.enroll("me", "ada", [Reading(one, "go on"), Reading(two, None)], anew=False, watch=nothing)
    desk.enroll("me", "bob", [Reading(one, None), Reading(two, "")], anew=False, watch=nothing)

    assert fake.learned == [("ada", [16000], ["go on"]), ("bob", [16000, 8000], None)]


def test_a_speaker_who_is_there_is_replaced_only_if_that_is_wanted(desk, fake, tmp_path):
    clips = [Reading(write_speech(tmp_path / "a.wav", 1.0), "go on")]
    desk.enroll("me", "ada", clips, anew=False, watch=nothing)

    with pytest.raises(PqmError, match="ada is enrolled already"):
        desk.enroll("me", "ada", clips, anew=False, watch=nothing)
    desk.enroll("me", "ada", clips, anew=True, watch=nothing)

    assert len(fake.learned) == 2


@pytest.mark.parametrize("name", ["../x", "", "con", "Zoë", "<b>", "a/b", ".x", "log", "a" * 101])
def test_a_name_that_cannot_be_a_folder_is_refused_before_anything_is_read(desk, fake, name, tmp_path):
    with pytest.raises(PqmError, match="speaker name"):
        desk.enroll("me", name, [Reading(tmp_path / "ghost.wav", "x")], anew=True, watch=nothing)

    assert fake.learned == [] and not (fake.folder.path / "speakers").exists()


def test_clips_that_are_too_long_or_too_many_are_refused(desk, fake, tmp_path):
    clip, long = write_speech(tmp_path / "a.wav", 1.5), write_speech(tmp_path / "b.wav", 2.5)

    for clips, why in (
        ([long], "b.wav lasts 2 s, the most is 2 s|b.wav lasts 3 s"),
        ([clip] * 3, "more than 0.05 min"),
    ):
        with pytest.raises(PqmError, match=why):
            desk.enroll("me", "ada", [Reading(path, "x") for path in clips], anew=False, watch=nothing)

    assert fake.learned == []


def test_stop_ends_ones_own_enrolment_after_the_step_and_nobody_elses(desk, fake, tmp_path):
    clips = [Reading(write_speech(tmp_path / "a.wav", 1.0), "go on")]
    told, stopped = [], []

    def watch(step, done, total):
        told.append(done)
        if done == 1:
            stopped.extend([desk.stop("another"), desk.stop("me")])

    with pytest.raises(PqmError, match="ada: stopped; nothing was changed"):
        desk.enroll("me", "ada", clips, anew=False, watch=watch)

    assert told == [0, 1] and stopped == [False, True]
    assert fake.learned == [] and desk.stop("me") is False
    desk.enroll("me", "ada", clips, anew=False, watch=nothing)
    assert len(fake.learned) == 1


def test_two_voices_are_learned_in_turns_and_whoever_is_heard_waits_for_neither(desk, fake, tmp_path):
    clips = [Reading(write_speech(tmp_path / "a.wav", 1.0), "go on")]
    order, others = [], []

    def slow(step, done, total):
        if not others:
            others.append(threading.Thread(target=learn, args=("bob", lambda *_: order.append("bob"))))
            others[0].start()
            desk.compare(clips[0].path, None, lambda *_: order.append("heard"))
            others[0].join(0.2)
        order.append("ada")

    def learn(name, watch):
        desk.enroll(name, name, clips, anew=False, watch=watch)

    learn("ada", slow)
    others[0].join()

    assert order == ["heard"] * 3 + ["ada"] * 4 + ["bob"] * 4


@pytest.mark.slow
def test_those_who_are_heard_at_once_share_batches_and_have_the_words_of_each_alone(packed, tiny_conformer, tmp_path):
    import pqm_plugin

    model = pqm_plugin.load(packed(tiny_conformer))
    sounds = [write_speech(tmp_path / f"{place}.wav", 1.0 + place / 10, seed=place) for place in range(4)]
    expected = [model.transcribe(sound).text for sound in sounds]
    desk = Desk(model, Limits())

    with model._alone, ThreadPoolExecutor(len(sounds)) as pool:
        # Nothing is computed while the model is held: they all meet in the queue.
        waiting = [pool.submit(desk.compare, sound, None, nothing) for sound in sounds]
        while len(desk.batches._rows) + len(desk.batches._computing) < len(sounds):
            time.sleep(0.01)
        model._alone.release()
        try:
            found = [each.result().before.transcript.text for each in waiting]
        finally:
            model._alone.acquire()
    desk.close()

    assert found == expected and len(set(found)) > 1
    assert desk.batches.n_rows == len(sounds) > desk.batches.n_batches
    with pytest.raises(PqmError, match="the server ends"):
        desk.compare(write_speech(tmp_path / "late.wav", 1.0, seed=9), None, nothing)


def test_limits_that_would_let_nothing_in_are_refused():
    for wrong in ({"upload_bytes": 0}, {"recording_s": 0.0}, {"total_s": -1.0}):
        with pytest.raises(PqmError, match="above 0"):
            Limits(**wrong)
