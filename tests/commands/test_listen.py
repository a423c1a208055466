"""`pqm listen`: pieces at pauses with partial words in between, from a recording or a pipe in place of a microphone."""

import importlib.util
import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile

import pqm_plugin
from pqm_plugin.commands.__main__ import main
from pqm_plugin.corpus.live import Feed, _floats
from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json, write_json
from pqm_plugin.personal.dictation import Pauses, Pieces
from tests.personal.conftest import TEXTS, conformer, folder, noise, packed, whisper

__all__ = ["conformer", "folder", "packed", "whisper"]
ROOT = Path(__file__).resolve().parents[2]
RATE = 16000
PATIENCE_S = 240
# Random weights write until they may not.
SEARCH = {"beam_size": 2, "max_length_ratio": 0.1}


def spoken(*bursts_s: float, pause_s: float = 1.2) -> np.ndarray:
    """A soft room in which noise is loud for so long each, int16 (n_samples,)."""
    chance = np.random.default_rng(0)
    parts = [chance.normal(0, 10, RATE)]
    for place, length_s in enumerate(bursts_s):
        parts += [noise(place, round(length_s * RATE)), chance.normal(0, 10, round(pause_s * RATE))]
    return np.concatenate(parts).astype(np.int16)


def cut(samples: np.ndarray, **pauses: float) -> list[tuple[float, float]]:
    """Where the pieces of int16 samples begin and end, in seconds, when they come in blocks of a tenth."""
    pieces, found = Pieces(RATE, Pauses(**pauses)), []
    for at in range(0, len(samples), RATE // 10):
        found += pieces.add((samples[at : at + RATE // 10] / 2.0**15).astype(np.float32))
    return [(start, start + len(piece) / RATE) for start, piece in [*found, *pieces.end()]]


def test_pieces_are_what_is_loud_with_a_little_before_and_after():
    [one, two] = cut(spoken(1.0, 2.0))

    assert one == pytest.approx((0.8, 2.2), abs=0.1) and two == pytest.approx((2.95, 5.4), abs=0.1)


def test_a_pause_that_is_shorter_than_the_wanted_one_ends_nothing():
    assert len(cut(spoken(1.0, 1.0, pause_s=0.5))) == 1
    assert len(cut(spoken(1.0, 1.0, pause_s=0.5), pause_s=0.3)) == 2


def test_what_is_too_long_is_cut_where_it_is_quietest_and_nothing_of_it_is_lost():
    samples = noise(0, 7 * RATE)
    samples[3 * RATE : 3 * RATE + 1600] //= 30

    found = cut(np.concatenate([spoken(), samples]), longest_s=4)

    assert found[0][1] == pytest.approx(4, abs=0.1)
    assert all(end == pytest.approx(start) for (_, end), (start, _) in zip(found, found[1:], strict=False))
    assert len(found) == 3 and found[-1][1] == pytest.approx(8) and all(end - start <= 4.01 for start, end in found)


@pytest.mark.parametrize("what", ["nothing", "room", "click"])
def test_where_nobody_speaks_there_are_no_pieces(what):
    samples = np.zeros(5 * RATE, np.int16) if what == "nothing" else spoken(pause_s=4)
    if what == "click":
        samples = spoken(0.03)

    assert cut(samples) == []


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_integers_of_every_width_become_the_same_floats(width, tmp_path):
    subtype = {1: "PCM_U8", 2: "PCM_16", 3: "PCM_24", 4: "PCM_32"}[width]
    soundfile.write(tmp_path / "a.wav", np.stack([noise(0, 100), noise(1, 100)], axis=1), RATE, subtype=subtype)

    with wave.open(str(tmp_path / "a.wav")) as file:
        found = _floats(file.readframes(100), width, 2)

    assert found == pytest.approx(soundfile.read(tmp_path / "a.wav", dtype="float32")[0].mean(axis=1), abs=1e-6)


def test_a_model_that_cannot_keep_up_is_an_error_and_does_not_fill_the_memory():
    feed = Feed(RATE)

    with pytest.raises(PqmError, match="behind the speech"):
        for _ in range(1300):
            feed.put(np.zeros(RATE // 10, np.float32))

    assert 120 < feed.waiting_s < 121
    with pytest.raises(PqmError, match="too slow"):
        list(feed)


@pytest.fixture
def ada(conformer) -> Path:
    """A packed tiny Conformer that ada is enrolled with."""
    from pqm_plugin.personal.options import EnrollOptions

    write_json(conformer / "about.json", {**read_json(conformer / "about.json"), "decode": SEARCH})
    options = EnrollOptions(rank=1, epochs=2, learning_rate=0.05)
    pqm_plugin.load(conformer).enroll("ada", [noise(seed) for seed in range(6)], TEXTS, options=options)
    return conformer


def as_wav(samples: np.ndarray) -> bytes:
    """Samples int16 (n_samples,) as a WAV of 16 bits."""
    made = io.BytesIO()
    soundfile.write(made, samples, RATE, format="WAV", subtype="PCM_16")
    return made.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("speaker", [None, "ada"])
def test_each_piece_has_the_words_of_pqm_transcribe_and_its_words_so_far_before_them(speaker, ada, tmp_path, capsys):
    samples = spoken(3.0, 1.0)
    soundfile.write(tmp_path / "a.wav", samples, RATE)
    options = ["--speaker", speaker] if speaker else []

    assert main(["listen", str(ada), "--input", str(tmp_path / "a.wav"), "--format", "json", *options]) == 0

    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["is_final"] for each in said] == [False, False, False, True, False, True]
    model = pqm_plugin.load(ada)
    for each in said:
        piece = samples[round(each["start_s"] * RATE) : round(each["end_s"] * RATE)]
        assert each["text"] == model.transcribe(piece, speaker).text != ""
        assert each["adapter"] == (f"speakers/{speaker}" if speaker else "none") and 0 <= each["confidence"] <= 1

    assert main(["listen", str(ada), "-i", str(tmp_path / "a.wav"), *options]) == 0
    assert capsys.readouterr().out.splitlines() == [each["text"] for each in said if each["is_final"]]


@pytest.mark.slow
def test_a_whisper_is_listened_to_through_onnx_runtime(whisper, tmp_path, capsys, caplog):
    soundfile.write(tmp_path / "a.wav", spoken(1.0), RATE)
    call = ["listen", str(whisper), "-i", str(tmp_path / "a.wav"), "--format", "json", "--partial", "0"]

    assert main([*call, "--runtime", "onnx"]) == 0

    [said] = map(json.loads, capsys.readouterr().out.splitlines())
    assert said["is_final"] and said["start_s"] == pytest.approx(0.8, abs=0.1)
    code = f"import sys\nfrom pqm_plugin.commands.__main__ import main\nmain({call})\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, timeout=PATIENCE_S)


def listening(model: Path, *options: str, **streams) -> subprocess.Popen:
    """The command as a process of its own, its standard input a pipe that stays open."""
    call = [sys.executable, "-m", "pqm_plugin.commands", "listen", str(model), "-i", "-", "--quiet", *options]
    kept = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    return subprocess.Popen(call, cwd=ROOT, **kept)


@pytest.mark.slow
def test_the_first_words_are_there_before_the_pipe_ends_and_ctrl_c_writes_what_is_being_spoken(ada):
    sound = as_wav(spoken(1.0, 2.0))
    second_speaks = 44 + 2 * round(4.5 * RATE)

    with listening(ada, "--format", "json") as process:
        process.stdin.write(sound[: 44 + 2 * 3 * RATE])
        process.stdin.flush()
        while not (first := json.loads(process.stdout.readline()))["is_final"]:
            pass
        process.stdin.write(sound[44 + 2 * 3 * RATE : second_speaks])
        process.stdin.flush()
        assert not json.loads(process.stdout.readline())["is_final"]
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=PATIENCE_S)

    last = json.loads(said.splitlines()[-1])
    assert process.returncode == 0 and errors == b""
    assert last["is_final"] and last["start_s"] == pytest.approx(2.95, abs=0.1) and first["end_s"] < 3
    assert last["end_s"] == pytest.approx(4.5, abs=0.15)


@pytest.mark.slow
def test_on_a_terminal_the_words_so_far_are_written_over(ada):
    ours, theirs = pty.openpty()
    with listening(ada, stdout=theirs) as process:
        os.close(theirs)
        sound = as_wav(spoken(2.5))
        # The pause is yet to come: words so far are left out while sound waits.
        process.stdin.write(sound[: -2 * RATE])
        process.stdin.flush()
        shown = b""
        with os.fdopen(ours, "rb", buffering=0) as terminal:
            while shown.count(b"\r\x1b[K") < 1:
                shown += terminal.read(4096)
            process.stdin.write(sound[-2 * RATE :])
            process.stdin.close()
            while b"\n" not in shown:
                shown += terminal.read(4096)
        assert process.wait(PATIENCE_S) == 0

    steps = shown.decode().split("\r\x1b[K")
    assert len(steps) >= 3 and steps[0] == "" and steps[-1].endswith("\n")
    assert all("\n" not in step for step in steps[:-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "ends within its header"),
        (b"no sound at all, but long enough to be a header of one", "no WAV"),
        (as_wav(noise(0))[:30], "ends within its header"),
    ],
)
def test_a_pipe_without_a_wav_is_one_line(data, why, conformer):
    with listening(conformer) as process:
        said, errors = process.communicate(data, timeout=PATIENCE_S)

    assert process.returncode == 1 and said == b""
    assert errors.startswith(b"pqm listen: ") and errors.count(b"\n") == 1 and why.encode() in errors


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--speaker", "nobody"], "has no speaker"),
        (["--pause", "0"], "a pause of 0 s"),
        (["--longest", "60"], "pieces of 60 s"),
        (["--partial", "-1", "--format", "json"], "partial results"),
        (["--input", "ghost.wav"], "ghost.wav is missing"),
    ],
)
def test_what_makes_no_sense_is_one_line(options, why, conformer, capsys):
    assert main(["listen", str(conformer), "--quiet", *options]) == 1

    said = capsys.readouterr()
    assert why in said.err and said.err.startswith("pqm listen: ") and said.err.count("\n") == 1 and not said.out


@pytest.mark.slow
def test_without_a_microphone_one_line_says_what_is_missing(conformer, capsys):
    if importlib.util.find_spec("sounddevice"):
        try:
            import sounddevice

            if any(device["max_input_channels"] for device in sounddevice.query_devices()):
                pytest.skip("there is a microphone")
        except OSError:
            pass

    start = time.monotonic()
    assert main(["listen", str(conformer), "--quiet"]) == 1

    said = capsys.readouterr().err
    assert said.startswith("pqm listen: the microphone ") and said.count("\n") == 1
    assert time.monotonic() - start < PATIENCE_S
