"""The command `pqm`: quick to start, one line for what is wrong, the same words as in Python."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

import pqm_plugin
from pqm_plugin.adapters.files import read_info
from pqm_plugin.commands.__main__ import main
from pqm_plugin.corpus.samples import TWO_PEOPLE
from tests.corpus.sounds import made
from tests.corpus.test_channels import stereo, voice
from tests.personal.conftest import TEXTS, conformer, folder, noise, packed, whisper

__all__ = ["conformer", "folder", "packed", "whisper"]
ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "espnet2", "transformers", "peft", "numpy", "soundfile", "scipy", "gradio")
FAST = ["--epochs", "1", "--rank", "1", "--learning_rate", "0.01"]


@pytest.fixture
def recordings(tmp_path) -> Path:
    """A folder of four recordings of noise with a list of what is said."""
    made = tmp_path / "recordings"
    made.mkdir()
    for place in range(4):
        soundfile.write(made / f"{place}.wav", noise(place), 16000)
    (made / "text").write_text("".join(f"{place} {TEXTS[place]}\n" for place in range(4)))
    return made


def imported(*arguments: str) -> set[str]:
    """Which heavy libraries a call of the command imports."""
    code = (
        "import sys\nfrom pqm_plugin.commands.__main__ import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        f"print('HEAVY', *[name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize(
    "arguments", [["--help"], ["transcribe", "--help"], ["enroll", "--help"], ["serve", "--help"], ["--version"]]
)
def test_help_imports_nothing_heavy(arguments):
    assert imported(*arguments) == set()


@pytest.mark.slow
def test_what_is_known_without_the_model_imports_nothing_heavy(conformer):
    assert imported("info", str(conformer)) == imported("speakers", str(conformer)) == set()
    assert imported("transcribe", str(conformer), "a.wav", "--speaker", "ghost") == set()


@pytest.mark.slow
def test_a_voice_is_enrolled_and_heard_from_the_command_line_as_from_python(folder, recordings, capsys, tmp_path):
    transcripts = ["--transcripts", str(recordings / "text")]

    assert main(["enroll", str(folder), str(recordings), "--speaker", "ada", *transcripts, *FAST]) == 0

    assert "ada: learned from 4 recordings, 0.1 min" in capsys.readouterr().out
    one, two = (str(recordings / f"{place}.wav") for place in (0, 1))
    assert main(["transcribe", str(folder), one, two, "--speaker", "ada"]) == 0
    expected = [pqm_plugin.load(folder).transcribe(path, "ada").text for path in (one, two)]
    assert capsys.readouterr().out == f"{one}\t{expected[0]}\n{two}\t{expected[1]}\n"
    assert main(["transcribe", str(folder), one, "--speaker", "ada"]) == 0
    assert capsys.readouterr().out == f"{expected[0]}\n"
    assert main(["transcribe", str(folder), one, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["adapter"] == "none"
    out = ["--format", "srt", "--out", str(tmp_path / "srt")]
    assert main(["transcribe", str(folder), one, two, "--speaker", "ada", *out]) == 0
    assert (tmp_path / "srt/0.srt").read_text().startswith("1\n00:00:00,000 --> 00:00:01,000\n")
    assert main(["speakers", str(folder)]) == 0
    assert capsys.readouterr().out.startswith("ada\t")


@pytest.mark.slow
def test_without_transcripts_the_model_learns_from_its_own_words(conformer, recordings, capsys, caplog):
    import logging

    with caplog.at_level(logging.INFO):
        assert main(
            ["enroll", str(conformer), str(recordings), "--speaker", "ada", "--min_confidence", "0", *FAST]
        ) in (0, 1)

    said = capsys.readouterr()
    if "no better than no adapter" not in said.err:
        assert "learned from" in said.out
    assert main(["enroll", str(conformer), str(recordings), "--speaker", "bob", "--min_confidence", "1", *FAST]) == 1
    assert "no word is certain enough in any of" in capsys.readouterr().err
    assert not (conformer / "speakers/bob").exists()


@pytest.mark.slow
def test_a_recording_that_cannot_be_read_does_not_keep_the_others_from_being_heard(conformer, recordings, capsys):
    good = str(recordings / "0.wav")

    assert main(["transcribe", str(conformer), "ghost.wav", good, "a.m4a"]) == 1

    said = capsys.readouterr()
    assert said.out.count("\n") == 1 and said.out.startswith(f"{good}\t")
    assert said.err.count("pqm transcribe: ") == 2 and "a.m4a is missing" in said.err


@pytest.mark.slow
def test_a_pack_is_made_checked_and_unpacked_from_the_command_line(conformer, tmp_path, capsys):
    pack, out = str(tmp_path / "a.pqm"), str(tmp_path / "out")

    assert main(["pack", str(conformer), pack, "--licence", "MIT"]) == 0
    assert main(["check", pack]) == 0
    assert main(["unpack", pack, out]) == 0
    assert main(["check", out]) == 0

    assert "licence    MIT" in capsys.readouterr().out
    assert main(["unpack", pack, out]) == 1
    (tmp_path / "out/tokens.txt").write_text("x")
    (tmp_path / "out/model.safetensors").write_bytes(b"x")
    assert main(["check", out]) == 1


@pytest.mark.slow
def test_a_float_model_is_quantized_with_its_licence(tiny_conformer, tmp_path, capsys):
    out = str(tmp_path / "out")

    assert main(["quantize", str(tiny_conformer), out, "--licence", "CC BY 4.0"]) == 0

    assert "times smaller than" in capsys.readouterr().out
    assert main(["info", out, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["licence"] == "CC BY 4.0" and found["source"] == "tiny_conformer"
    assert found["quantize"]["keep"] == ["depthwise_conv"] and found["quantize"]["block_size"] == 32
    assert main(["quantize", str(tiny_conformer), out]) == 1
    assert main(["quantize", str(tiny_conformer), str(tmp_path / "other"), "--keep", "nothing"]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["info", "nowhere"], "holds no packed model"),
        (["transcribe", "nowhere", "a.wav"], "holds no packed model"),
        (["transcribe", "nowhere", "a.wav", "b.wav", "--format", "srt"], "give --out"),
        (["transcribe", "nowhere", "x/a.wav", "y/a.wav", "--out", "o"], "two recordings would be written"),
        (["enroll", "nowhere", "recordings", "--speaker", "ada"], "holds no packed model"),
        (["unpack", "nowhere.pqm", "out"], "is missing"),
        (["serve", "nowhere"], "holds no packed model"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_1(arguments, why, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert main(arguments) == 1

    said = capsys.readouterr().err
    assert said.startswith(f"pqm {arguments[0]}: ") and why in said and said.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.slow
def test_what_standard_output_does_not_take_is_one_line_and_exit_1(conformer):
    program = [sys.executable, "-m", "pqm_plugin.commands", "info", str(conformer)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    with open("/dev/full", "w") as full:
        done = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, text=True, env=environment, check=False)

    assert done.returncode == 1
    assert done.stderr.startswith("pqm info: standard output: the disk is full") and done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_standard_output_of_any_encoding_and_names_that_are_no_text_are_taken(conformer, recordings, encoding):
    sound = os.fsencode(recordings) + b"/\xc4.wav"
    os.rename(recordings / "0.wav", sound)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding}
    # Several calls of the command in one interpreter, which has to import what they need once.
    program = """
import os, sys
from pqm_plugin.commands.__main__ import main
calls = [[]]
for argument in sys.argv[1:]:
    calls.append([]) if argument == "--then" else calls[-1].append(argument)
for call in calls:
    status = main(["transcribe", *call])
    sys.stdout.flush()
    os.write(1, b"\\0%d\\0" % status)
"""
    calls = [conformer, sound, sound, "--then", conformer, sound, "--format", "json"]
    calls += ["--then", conformer, sound, "--format", "json", "--out", recordings / "out"]

    def run(*command):
        return subprocess.run([sys.executable, *command], capture_output=True, env=environment, check=False)

    shown, done = run("-m", "pqm_plugin.commands", "transcribe", "--help"), run("-c", program, *calls)

    assert shown.returncode == done.returncode == 0, done.stderr
    assert shown.stderr.count(b"cannot write") == (encoding != "utf-8")
    text, status, objects, *statuses = done.stdout.split(b"\0")
    assert [status, *statuses] == [b"0", b"0", b"", b"0", b""]
    assert text.startswith(sound + b"\t")
    [kept] = (recordings / "out").iterdir()
    for found in (objects, kept.read_bytes()):
        assert os.fsencode(json.loads(found.decode("utf-8"))["audio"]) == sound


def test_a_model_whose_name_is_no_text_is_refused_in_one_line(tiny_conformer, tmp_path, capsys):
    assert main(["quantize", str(tiny_conformer), os.fsdecode(os.fsencode(tmp_path) + b"/\xff")]) == 1

    assert "must be UTF-8" in capsys.readouterr().err


@pytest.mark.slow
def test_recordings_of_a_phone_are_enrolled_by_name_and_heard_from_standard_input(conformer, tmp_path, capsys):
    phone = tmp_path / "phone"
    phone.mkdir()
    for place in range(3):
        (phone / f"{place}.m4a").write_bytes(made("m4a", noise(place) / 32768.0))
    (tmp_path / "text").write_text("".join(f"{place}.m4a {TEXTS[place]}\n" for place in range(3)))
    given = [str(phone), "--transcripts", str(tmp_path / "text"), "--epochs", "1"]

    assert main(["enroll", str(conformer), "--speaker", "cleo", *given]) == 0
    assert "from 3 recordings" in capsys.readouterr().out
    with (phone / "0.m4a").open("rb") as piped:
        done = subprocess.run(
            [sys.executable, "-m", "pqm_plugin.commands", "transcribe", str(conformer), "-", "--speaker", "cleo"],
            stdin=piped,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_channel_is_heard_and_learned_from_and_two_people_on_two_channels_are_said(conformer, tmp_path, capsys):
    two = stereo(voice(0), voice(1))
    soundfile.write(tmp_path / "call.wav", two, 16000)
    expected = pqm_plugin.load(conformer).transcribe(two[:, 1], plain=True).text

    assert main(["transcribe", str(conformer), str(tmp_path / "call.wav"), "--plain", "--channel", "1"]) == 0
    told = capsys.readouterr()
    assert told.out == f"{expected}\n" and TWO_PEOPLE not in told.err

    assert main(["transcribe", str(conformer), str(tmp_path / "call.wav"), "--plain"]) == 0
    [said] = [line for line in capsys.readouterr().err.splitlines() if TWO_PEOPLE in line]
    assert "--channel 0" in said and "call.wav" in said

    assert main(["transcribe", str(conformer), str(tmp_path / "call.wav"), "--plain", "--channel", "2"]) == 1
    assert "there is no channel 2: it has 2 channels, 0 to 1" in capsys.readouterr().err

    (tmp_path / "call.txt").write_text("GO ON")
    learned = ["enroll", str(conformer), str(tmp_path / "call.wav"), "--speaker"]
    assert main([*learned, "ada", "--channel", "1", *FAST]) == main([*learned, "eve", *FAST]) == 0
    assert capsys.readouterr().err.count(TWO_PEOPLE) == 1
    asked = [read_info(conformer / "speakers" / name).request["clips"] for name in ("ada", "eve")]
    assert asked[0] != asked[1]
