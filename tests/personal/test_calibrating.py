"""`pqm quantize --calibrate`: other codes in a file of one size, every time the same, nearer to the float model."""

import numpy as np
import pytest
import soundfile
import torch

from pqm_plugin.commands.__main__ import main
from pqm_plugin.errors import PqmError
from pqm_plugin.models.families import family_of
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.personal.facts import facts
from pqm_plugin.personal.folder import ModelFolder
from pqm_plugin.personal.making import quantize
from pqm_plugin.personal.opening import open_packed
from pqm_plugin.personal.packing import card
from tests.personal.conftest import noise

pytestmark = pytest.mark.slow


@pytest.fixture
def recordings(tmp_path):
    """Three recordings of noise at two rates, one of them stereo, and one in which nobody speaks."""
    folder = tmp_path / "recordings"
    (folder / "more").mkdir(parents=True)
    soundfile.write(folder / "a.wav", noise(1, 24000), 16000)
    soundfile.write(folder / "b.flac", noise(2, 24000), 8000)
    soundfile.write(folder / "more/c.wav", np.stack([noise(3), noise(4)], axis=1), 16000)
    soundfile.write(folder / "silence.wav", np.zeros(16000, np.int16), 16000)
    return folder


@pytest.mark.parametrize("base", ["tiny_conformer", "tiny_whisper"])
def test_recordings_without_texts_decide_the_codes_and_nothing_else(
    base, request, packed, recordings, tmp_path, capsys, monkeypatch
):
    # What the tiny Whisper writes of noise is bytes that are not text.
    monkeypatch.setattr(
        "pqm_plugin.models.whisper.model.Whisper.greedy", lambda self, features: ["go on"] * len(features)
    )
    source, threads = request.getfixturevalue(base), torch.get_num_threads()
    torch.set_num_threads(2)

    assert main(["quantize", str(source), str(tmp_path / "one"), "--calibrate", str(recordings)]) == 0
    torch.set_num_threads(threads)
    quantize(
        str(source), tmp_path / "two", calibrate=[recordings / "more", recordings / "a.wav", recordings / "b.flac"]
    )

    one, two, nearest = (
        (folder / "model.safetensors").read_bytes() for folder in (tmp_path / "one", tmp_path / "two", packed(source))
    )
    assert one == two
    assert one != nearest and len(one) == len(nearest)
    capsys.readouterr()
    assert main(["info", str(tmp_path / "one")]) == main(["info", str(packed(source))]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("rounding")] == [
        "rounding   by what the layers hear of 3 recordings",
        "rounding   each weight to its nearest level",
    ]
    assert "* rounding: by what the layers hear of 3 recordings" in card(facts(ModelFolder.of(tmp_path / "one")))


def test_where_nobody_speaks_it_is_said_and_nothing_is_made(tiny_conformer, recordings, tmp_path, capsys):
    command = ["quantize", str(tiny_conformer), str(tmp_path / "out"), "--calibrate"]

    codes = [main([*command, str(recordings / name)]) for name in ("silence.wav", "ghost.wav")]

    said = capsys.readouterr().err
    assert codes == [1, 1]
    assert "finds no words in any of 1 recordings" in said and "ghost.wav is missing" in said
    assert [path.name for path in tmp_path.iterdir()] == ["recordings"]


def test_a_file_that_is_no_audio_is_named_before_the_model_is_fetched(tmp_path):
    (tmp_path / "a.wav").write_text("no audio")

    with pytest.raises(PqmError, match=r"a\.wav"):
        quantize("no/such/model", tmp_path / "out", calibrate=[tmp_path])


def log_posteriors(recognizer, recordings):
    """CTC log posteriors of recordings one after another, (frames, tokens)."""
    espnet = recognizer.network
    with torch.no_grad():
        features = [recognizer.features(soundfile.read(path, dtype="float32")[0]) for path in recordings]
        encoded = [recognizer._encode([each])[0] for each in features]
        return torch.cat([espnet.ctc.log_softmax(each)[0] for each in encoded])


@pytest.mark.real
def test_a_real_model_is_nearer_to_the_float_one_on_speech_that_it_was_not_rounded_by(shared, tmp_path):
    base = shared / "models/conformer_small"
    to_hear = sorted((shared / "data/LibriSpeech/train-clean-5").rglob("*.flac"))[::10]
    held_out = sorted((shared / "data/LibriSpeech/dev-clean").rglob("*-0003.flac"))[:8]

    quantize(str(base), tmp_path / "nearest")
    quantize(str(base), tmp_path / "calibrated", calibrate=to_hear)

    full = log_posteriors(family_of(base).load_float(base, SearchOptions(), "cpu"), held_out)
    nearest, calibrated = (
        (log_posteriors(open_packed(ModelFolder.of(tmp_path / name), SearchOptions()).recognizer, held_out) - full)
        .square()
        .mean()
        for name in ("nearest", "calibrated")
    )
    assert calibrated < nearest / 2
