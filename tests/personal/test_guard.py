"""What a decoder repeats comes neither into transcripts nor into what is learned; times are those of speech."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import pqm_plugin
from pqm_plugin.commands.__main__ import main
from pqm_plugin.errors import PqmError
from pqm_plugin.files import write_json
from pqm_plugin.models.families import family_of
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.models.repetition import compression_ratio
from pqm_plugin.personal.options import EnrollOptions
from tests.faults import tries
from tests.personal.conftest import noise

RATE = 16000
LETTER = "o"
# The attention decoder alone, to its end.
SEARCH = {"whisper": {"beam_size": 2}, "conformer": {"beam_size": 2, "ctc_weight": 0.0, "max_length_ratio": -80.0}}


def make_looping_whisper(base: Path, folder: Path) -> Path:
    """A copy whose decoder finds `o` the likeliest token wherever it is, in a decoder of 448 positions."""
    shutil.copytree(base, folder)
    for name, key in (("config.json", "max_target_positions"), ("generation_config.json", "max_length")):
        write_json(folder / name, json.loads((folder / name).read_text()) | {key: 448})
    state = load_file(folder / "model.safetensors")
    embedding = state["model.decoder.embed_tokens.weight"]
    state["model.decoder.layer_norm.weight"].zero_()
    state["model.decoder.layer_norm.bias"] = 20 * embedding[ord(LETTER) - ord("!")].clone()
    state["model.decoder.embed_positions.weight"] = torch.zeros(448, embedding.shape[1])
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    return folder


def make_looping_conformer(base: Path, folder: Path) -> Path:
    """A copy whose attention decoder finds the token of 9 the likeliest wherever it is."""
    shutil.copytree(base, folder)
    state = torch.load(folder / "valid.acc.ave.pth")
    state["decoder.output_layer.bias"][9] = 50.0
    torch.save(state, folder / "valid.acc.ave.pth")
    return folder


@pytest.fixture(scope="module", params=["whisper", "conformer"])
def looping(request, tmp_path_factory, packed) -> Path:
    """A packed model that repeats itself, one of each family; it is not to be changed."""
    root, base = tmp_path_factory.mktemp("looping"), request.getfixturevalue(f"tiny_{request.param}")
    make = {"whisper": make_looping_whisper, "conformer": make_looping_conformer}[request.param]
    folder = packed(make(base, root / request.param))
    write_json(folder / "about.json", {"decode": SEARCH[request.param]})
    return folder


@pytest.fixture
def sound() -> np.ndarray:
    """Two seconds of noise."""
    return noise(0, 2 * RATE)


@pytest.mark.slow
def test_what_is_repeated_is_cut_and_none_is_sure_of_it(looping, sound, tmp_path, capsys, caplog):
    import soundfile

    soundfile.write(tmp_path / "a.wav", sound, RATE)
    search = SearchOptions(**json.loads((looping / "about.json").read_text())["decode"], guard="never")
    loop = pqm_plugin.load(looping, search=search).transcribe(sound)

    found = pqm_plugin.load(looping).transcribe(sound)

    assert len(loop.text) > 60 and len(found.text) < 20
    assert all(segment.confidence == 0.0 for segment in found.segments if segment.text)
    assert caplog.text.count("nobody said in") + caplog.text.count("repeated itself") == len(found.segments)
    assert main(["transcribe", str(looping), str(tmp_path / "a.wav"), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == found.text
    assert main(["transcribe", str(looping), str(tmp_path / "a.wav"), "--guard", "never"]) == 0
    assert capsys.readouterr().out == f"{loop.text}\n"


@pytest.mark.slow
def test_nothing_is_learned_from_words_that_are_repeated(looping, tmp_path):
    model = pqm_plugin.load(shutil.copytree(looping, tmp_path / "model"))
    options = EnrollOptions(rank=1, epochs=1, min_confidence=0.01)

    with pytest.raises(PqmError, match=r"certain enough in any of 2 stretches of speech \(highest confidence 0\.00"):
        model.enroll("ada", [noise(0), noise(1)], options=options)


def test_thresholds_are_settings_of_the_maker_and_options_of_the_command(whisper, tmp_path, capsys):
    import soundfile

    path = str(tmp_path / "a.wav")
    soundfile.write(path, noise(0), RATE)

    assert main(["transcribe", str(whisper), path, "--no_speech_threshold", "2"]) == 1
    assert "no_speech_threshold 2.0: use a number from 0 to 1" in capsys.readouterr().err
    write_json(whisper / "about.json", {"decode": {"guard": "sometimes"}})
    assert main(["transcribe", str(whisper), path]) == 1
    assert "guard 'sometimes': use auto, always, never" in capsys.readouterr().err


def test_an_enrolment_of_an_earlier_version_is_still_done(whisper):
    family = family_of(whisper)

    assert set(family.search_options(SearchOptions())) == {"beam_size", "batch_size", "language", "context"}


def spoken(before_s, speech_s, after_s):
    """Noise like speech between silences, float32."""
    rng = np.random.default_rng(3)
    n = int(speech_s * RATE)
    sound = 0.1 * rng.normal(size=n) * np.abs(np.sin(4 * np.pi * np.arange(n) / RATE))
    silence = [1e-4 * rng.normal(size=int(length * RATE)) for length in (before_s, after_s)]
    return np.concatenate([silence[0], sound, silence[1]]).astype(np.float32)


@pytest.mark.slow
def test_times_of_segments_are_those_of_speech_and_never_overlap(folder):
    model = pqm_plugin.load(folder, search=SearchOptions(beam_size=2, guard="never"))
    sound = np.concatenate([spoken(0.7, 0.8, 0.5), spoken(0.3, 1.2, 0.25)])

    found = model.transcribe(sound, longest_s=2.0)
    whole = list(model.segments(sound, longest_s=2.0, trimmed=False))

    assert [part.text for part in found.segments] == [part.text for part in whole]
    assert found.duration_s == pytest.approx(3.75)
    said = [part for part in found.segments if part.text]
    assert said[0].start_s == pytest.approx(0.7, abs=0.2) and said[-1].end_s == pytest.approx(3.5, abs=0.2)
    times = [time_s for part in found.segments for time_s in (part.start_s, part.end_s)]
    assert times == sorted(times) and 0 <= times[0] and times[-1] <= found.duration_s
    assert [part.start_s for part in whole][0] == 0.0 and whole[-1].end_s == found.duration_s


def wordless(seed: int) -> np.ndarray:
    """A sound in which nobody speaks, by chance: its kind, level, length, and silence around it."""
    chance = np.random.default_rng(seed)
    n = int(chance.uniform(0.02, 4.0) * RATE)
    times = np.arange(n) / RATE
    kind = chance.integers(5)
    if kind == 0:
        samples = np.zeros(n)
        samples[chance.integers(0, n, size=3)] = 1.0  # clicks
    elif kind == 1:
        samples = chance.standard_normal(n)
    elif kind == 2:
        samples = np.sin(2 * np.pi * 50 * times) + 0.3 * np.sin(2 * np.pi * 150 * times)  # hum
    elif kind == 3:
        samples = np.sin(2 * np.pi * chance.uniform(300, 3000) * times)  # a beep
    else:
        samples = chance.standard_normal(n) * (chance.random(n) < 0.02)  # crackle
    around = np.zeros(int(chance.uniform(0, 1.0) * RATE))
    return np.concatenate([around, samples * 10.0 ** chance.uniform(-4, -0.5), around]).astype(np.float32)


@pytest.mark.slow
def test_sounds_without_words_give_no_text_that_repeats_itself_whatever_they_are(looping, tmp_path, capsys):
    import soundfile

    model = pqm_plugin.load(looping)

    for seed in tries(6):
        found = model.transcribe(wordless(seed))

        assert compression_ratio(found.text) <= SearchOptions().compression_ratio_threshold, (seed, found.text)
        for segment in found.segments:
            assert 0 <= segment.start_s <= segment.end_s <= found.duration_s, (seed, segment)
            assert not segment.text or segment.confidence == 0.0, (seed, segment)
    soundfile.write(tmp_path / "a.wav", wordless(0), RATE)
    assert main(["transcribe", str(looping), str(tmp_path / "a.wav"), "--format", "srt"]) == 0
    assert len(capsys.readouterr().out) < 200
