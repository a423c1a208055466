"""Manifests that lhotse wrote are read with it: each sound is what lhotse loads, and what is of no use is named."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torchaudio

from pqm_plugin.corpus.audio import load_audio
from pqm_plugin.corpus.readers import available_readers, find_reader, own
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError
from pqm_plugin.stages.data import prepare_data

lhotse = pytest.importorskip("lhotse")
RATE = 16000


def recording(folder, name, seconds=3.0, n_channels=1, rate=RATE):
    """A recording of noise in a file, as lhotse describes it."""
    path = folder / f"{name}.wav"
    noise = np.random.default_rng(len(name)).normal(0, 0.1, (round(seconds * rate), n_channels))
    soundfile.write(path, noise, rate)
    return lhotse.Recording.from_file(path, recording_id=name)


def said(recording, number=0, start=0.0, duration=None, channel=0, speaker="ann", text="ONE TWO"):
    return lhotse.SupervisionSegment(
        f"{recording.id}-{number}", recording.id, start, duration or recording.duration, channel, text, speaker=speaker
    )


def cut_of(recording, *spoken):
    cut = recording.to_cut()
    cut.supervisions = list(spoken) or [said(recording)]
    return cut


def written(folder, *cuts):
    path = folder / "cuts.jsonl.gz"
    lhotse.CutSet.from_cuts(cuts).to_file(path)
    return path


def heard(found: Utterance) -> np.ndarray:
    assert not found.problem, found.problem
    return load_audio(found, RATE)


def read(corpus: Path, sounds: Path | None = None, set_name: str = "own") -> list[Utterance]:
    return list(own.read_made(corpus, set_name, sounds))


def test_the_reader_is_found_and_a_manifest_is_one_set(tmp_path):
    path = written(tmp_path, cut_of(recording(tmp_path, "a")))

    assert "lhotse" in available_readers() and find_reader("lhotse").available_sets(path) == ["own"]
    assert own.available_sets(path) == ["own"]
    [found] = find_reader("lhotse").read(path, "own")
    assert (found.utterance, found.speaker, found.text) == ("a-0", "ann", "ONE TWO")
    assert found.audio == str(tmp_path / "a.wav")


def test_each_of_several_supervisions_is_its_part_of_the_recording(tmp_path):
    sound = recording(tmp_path, "talk", 4.0)
    whole = cut_of(sound, said(sound, 0, 0.5, 1.0), said(sound, 1, 2.0, 1.5, speaker="bob", text="THREE"))
    later = whole.truncate(offset=0.25)
    path = written(tmp_path, later)

    first, second = read(path)

    assert (first.start_s, first.end_s, second.start_s, second.end_s) == (0.5, 1.5, 2.0, 3.5)
    assert (second.speaker, second.text, second.source) == ("bob", "THREE", "talk")
    expected = [cut.load_audio()[0] for cut in later.trim_to_supervisions()]
    for one, samples in zip((first, second), expected, strict=True):
        np.testing.assert_array_equal(heard(one), samples)


def test_a_supervision_is_heard_on_its_own_channel(tmp_path):
    stereo = recording(tmp_path, "call", 2.0, n_channels=2)
    path = written(tmp_path, cut_of(stereo, said(stereo, 0, channel=0), said(stereo, 1, channel=1, speaker="bob")))

    one, other = read(path)

    assert (one.channel, other.channel) == (0, 1)
    samples = stereo.load_audio()
    np.testing.assert_array_equal(heard(one), samples[0])
    np.testing.assert_array_equal(heard(other), samples[1])


def test_channels_that_lie_in_files_of_their_own_are_found(tmp_path):
    files = [recording(tmp_path, name, 1.0) for name in ("left", "rightmost")]
    sources = [replace(each.sources[0], channels=[channel]) for channel, each in enumerate(files)]
    both = replace(files[0], id="both", sources=sources, channel_ids=[0, 1])
    spoken = said(both, 0, channel=1), said(both, 1, channel=[0, 1], speaker="ann")
    path = written(tmp_path, cut_of(both, *spoken))

    one, all_of_it = read(path, tmp_path / "sounds")

    assert one.audio == str(tmp_path / "rightmost.wav") and one.channel is None
    np.testing.assert_allclose(heard(all_of_it), both.load_audio().mean(axis=0), atol=1e-7)


@pytest.mark.parametrize(
    "changed",
    [
        lambda cut: cut.perturb_speed(1.1),
        lambda cut: cut.perturb_volume(3.0),
        lambda cut: cut.resample(8000),
        lambda cut: cut.perturb_speed(0.9).perturb_volume(0.5),
    ],
    ids=["speed", "volume", "resampling", "speed and volume"],
)
def test_transforms_are_computed_by_lhotse_and_kept(tmp_path, changed):
    cut = changed(cut_of(recording(tmp_path, "a")))
    path = written(tmp_path, cut)

    [found] = read(path, tmp_path / "sounds")

    samples, rate = soundfile.read(found.audio, dtype="float32")
    assert rate == cut.sampling_rate
    np.testing.assert_array_equal(samples, cut.load_audio()[0])
    before = Path(found.audio).stat().st_mtime_ns
    [again] = read(path, tmp_path / "sounds")
    assert again == found and Path(again.audio).stat().st_mtime_ns == before
    [other] = read(written(tmp_path, cut.perturb_volume(0.5)), tmp_path / "sounds")
    assert other.audio != found.audio


def test_a_change_of_tempo_is_computed_where_torchaudio_can_and_else_refused_by_name(tmp_path):
    cut = cut_of(recording(tmp_path, "a")).perturb_tempo(0.9)

    [found] = read(written(tmp_path, cut), tmp_path / "sounds")

    if hasattr(torchaudio, "sox_effects"):
        np.testing.assert_allclose(heard(found), cut.load_audio()[0], atol=1e-6)
    else:
        assert "computes a change of tempo with torchaudio.sox_effects, which torchaudio has no longer" in found.problem


def test_padding_is_left_out_and_what_is_mixed_with_noise_is_mixed_by_lhotse(tmp_path):
    cut = cut_of(recording(tmp_path, "a", 2.0))
    noise = recording(tmp_path, "noise", 5.0).to_cut()
    padded = cut.pad(3.0, direction="both")
    mixed = cut_of(recording(tmp_path, "bb", 2.0)).mix(noise, snr=10)

    plain, noisy = read(written(tmp_path, padded, mixed), tmp_path / "sounds")

    assert plain.audio == str(tmp_path / "a.wav")
    np.testing.assert_array_equal(heard(plain), cut.load_audio()[0])
    np.testing.assert_allclose(heard(noisy), mixed.load_audio()[0, : 2 * RATE], atol=1e-6)


def test_one_voice_after_another_is_taken_and_two_at_once_are_refused_by_name(tmp_path):
    one = cut_of(recording(tmp_path, "a", 2.0))
    two = recording(tmp_path, "bb", 2.0)
    other = cut_of(two, said(two, speaker="bob"))
    after = one.append(other)
    at_once = one.mix(other, offset_other_by=1.0)

    found = read(written(tmp_path, after), tmp_path / "sounds")
    assert [each.speaker for each in found] == ["ann", "bob"]
    np.testing.assert_allclose(heard(found[1]), other.load_audio()[0], atol=1e-6)
    refused = read(written(tmp_path, at_once), tmp_path / "sounds")
    assert [each.problem[:40] for each in refused] == [
        "a-0: bob speaks in 1.00 s of it, too: an",
        "bb-0: ann speaks in 1.00 s of it, too: a",
    ]


def test_what_lacks_speaker_text_sound_or_supervision_is_named_with_its_line(tmp_path):
    sounds = [recording(tmp_path, "x" * n) for n in range(1, 7)]
    cuts = [cut_of(sound) for sound in sounds]
    cuts[0].supervisions = []
    cuts[1].supervisions[0].speaker = None
    cuts[2].supervisions[0].text = None
    cuts[3] = cuts[3].truncate(duration=1.0)
    cuts[4].supervisions[0].speaker = "two words"
    path = written(tmp_path, *cuts)
    with gzip.open(path, "ab") as file:
        file.write(b'{"id": "half", "type": "MonoC\n')
        file.write(json.dumps(sounds[0].to_dict()).encode())

    found = read(path)

    assert [each.place.rpartition(":")[2] for each in found] == list("12345678")
    for each, said_of_it in zip(
        found,
        (
            "cut .* has no supervision",
            "xx-0 has no speaker: name who speaks",
            "xxx-0 has no text: write what is said",
            "xxxx-0: 2.00 s of it lie outside of its cut",
            "speaker name 'two words' cannot be",
            "",
            "lhotse cannot read this line",
            "is a Recording, not a cut",
        ),
        strict=True,
    ):
        assert bool(each.problem) == bool(said_of_it)
        if said_of_it:
            with pytest.raises(PqmError, match=said_of_it):
                raise PqmError(each.problem)


def test_recordings_and_supervisions_are_joined_under_their_names(tmp_path):
    for part, name in (("dev", "a"), ("test", "bb")):
        sound = recording(tmp_path, name)
        lhotse.RecordingSet.from_recordings([sound]).to_file(tmp_path / f"mine_recordings_{part}.jsonl.gz")
        spoken = [said(sound, 0, 0.5, 1.0), replace(said(sound, 1), recording_id="gone")]
        lhotse.SupervisionSet.from_segments(spoken).to_file(tmp_path / f"mine_supervisions_{part}.jsonl")

    assert own.available_sets(tmp_path) == ["dev", "test"]
    lost, kept = sorted(read(tmp_path, set_name="test"), key=lambda each: not each.problem)
    assert (kept.utterance, kept.start_s, kept.end_s) == ("bb-0", 0.5, 1.5)
    assert "there is no recording gone in mine_recordings_test.jsonl.gz" in lost.problem
    assert read(tmp_path / "mine_supervisions_test.jsonl") == read(tmp_path / "mine_recordings_test.jsonl.gz")
    (tmp_path / "mine_supervisions_dev.jsonl").unlink()
    with pytest.raises(PqmError, match="holds recordings alone: put mine_supervisions_dev.jsonl.gz beside it"):
        own.available_sets(tmp_path / "mine_recordings_dev.jsonl.gz")


@pytest.mark.parametrize("with_sound", [True, False])
def test_a_shar_folder_is_read_and_its_features_are_not_opened(tmp_path, with_sound):
    cuts = [cut_of(recording(tmp_path, name)) for name in ("a", "bb", "ccc")]
    fields = {"recording": "wav"} if with_sound else {}
    (tmp_path / "shar").mkdir()
    lhotse.CutSet.from_cuts(cuts).to_shar(tmp_path / "shar", fields=fields, shard_size=2)
    for number in range(2):
        (tmp_path / f"shar/features.{number:06d}.tar").write_bytes(b"not a tar")

    found = read(tmp_path / "shar", tmp_path / "sounds")

    for one, cut in zip(found, cuts, strict=True):
        np.testing.assert_allclose(heard(one), cut.load_audio()[0], atol=1e-4)
        assert (tmp_path / "sounds" in Path(one.audio).parents) == with_sound


def test_paths_are_those_beside_the_manifest_where_they_are_not_where_the_program_runs(tmp_path):
    sound = recording(tmp_path, "a")
    here = replace(sound, sources=[replace(sound.sources[0], source="a.wav")])

    plain, quick = read(written(tmp_path, cut_of(here), cut_of(here).perturb_speed(1.1)), tmp_path / "sounds")

    assert plain.audio == str(tmp_path / "a.wav")
    assert len(heard(quick)) == round(3 * RATE / 1.1)


def test_copies_of_an_utterance_have_names_of_their_own_and_odd_names_become_a_files(tmp_path):
    cut = cut_of(recording(tmp_path, "a"))
    odd = cut_of(recording(tmp_path, "bb"))
    odd.supervisions[0].id = "POD/12 one"

    names = [each.utterance for each in read(written(tmp_path, cut, cut.with_id("again"), odd))]

    assert names[:2] == ["a-0", "again-a-0"]
    assert names[2].startswith("POD_12_one-")


def test_damaged_and_other_files_are_one_line(tmp_path):
    path = written(tmp_path, *[cut_of(recording(tmp_path, "a")).with_id(f"cut{n}") for n in range(200)])
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(PqmError, match="is damaged"):
        read(path)
    (tmp_path / "x.jsonl").write_text('{"sources": []\n')
    with pytest.raises(PqmError, match="is no line of a manifest of lhotse"):
        own.available_sets(tmp_path / "x.jsonl")
    (tmp_path / "x.jsonl").write_text("\n")
    with pytest.raises(PqmError, match="is empty"):
        own.available_sets(tmp_path / "x.jsonl")


def test_stage_1_takes_a_manifest_and_a_second_run_changes_nothing(tmp_path):
    cuts = [cut_of(recording(tmp_path, "x" * n, 1.0)) for n in range(1, 13)]
    for place, cut in enumerate(cuts):
        cut.supervisions[0].speaker = "ab"[place % 2]
    path = written(tmp_path, *[cut.perturb_speed(1.1) if place % 3 else cut for place, cut in enumerate(cuts)])

    for _ in range(2):
        summary = prepare_data(path, "own", tmp_path / "data", "own", [], speakers=["a"])

    assert summary.sets["own"].n_utterances == 12
    lines = (tmp_path / "data/own/wav.scp").read_text().splitlines()
    assert sum("/data/.sounds/own/" in line for line in lines) == 8
    assert len((tmp_path / "data/own/segments").read_text().splitlines()) == 12
