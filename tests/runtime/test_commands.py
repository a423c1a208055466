"""`pqm` hears through ONNX Runtime without torch, and says where it cannot."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pqm_plugin.commands.__main__ import main
from pqm_plugin.errors import PqmError
from pqm_plugin.personal.making import quantize
from pqm_plugin.personal.model import PersonalModel
from pqm_plugin.personal.runtime import RuntimeModel, open_hearing
from pqm_plugin.runtime import processor

HEAVY = ("torch", "transformers", "espnet", "espnet2", "peft", "bitsandbytes", "torchaudio")
WATCHED = """
import sys
from pqm_plugin.commands.__main__ import main
status = main(sys.argv[1:])
print(*(name for name in {heavy!r} if name in sys.modules), file=sys.stderr)
sys.exit(status)
"""


@pytest.fixture(scope="module")
def packed(tiny_whisper, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("commands") / "whisper"
    quantize(str(tiny_whisper), out)
    return out


@pytest.fixture
def whisper(packed, tmp_path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "whisper"))


@pytest.fixture
def recording(tmp_path) -> str:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 16000), 16000)
    return str(path)


@pytest.fixture(scope="module")
def conformer(tiny_conformer, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("commands") / "conformer"
    quantize(str(tiny_conformer), out)
    return out


WITHOUT = """
import runpy, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {heavy!r}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Missing())
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__")
"""
TRAIN = "pip install 'pqm_plugin[train]'"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "arguments", "line"),
    [
        ("pqm_plugin.commands", ["transcribe", "MODEL", "AUDIO", "--quiet"], ""),
        ("pqm_plugin.commands", ["info", "MODEL"], ""),
        ("pqm_plugin.commands", ["enroll", "MODEL", "AUDIO", "--speaker", "ada"], f"is not installed: {TRAIN}"),
        (
            "pqm_plugin.commands",
            ["transcribe", "MODEL", "AUDIO", "--runtime", "torch"],
            f"torch is not installed, and only torch can compute this model: {TRAIN}",
        ),
        ("pqm_plugin", ["data"], f"a recipe needs torch, which is not installed: {TRAIN}"),
    ],
    ids=str,
)
def test_without_torch_it_hears_and_says_what_else_needs(conformer, recording, module, arguments, line):
    given = [{"MODEL": str(conformer), "AUDIO": recording}.get(one, one) for one in arguments]
    program = WITHOUT.format(heavy=HEAVY)

    done = subprocess.run([sys.executable, "-c", program, module, *given], capture_output=True, text=True, check=False)

    assert done.returncode == (1 if line else 0), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().endswith(line) and len(done.stderr.strip().splitlines()) <= (1 if line else 0)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["transcribe", "speakers", "info"])
@pytest.mark.parametrize("family", ["packed", "conformer"])
def test_torch_and_its_company_are_not_imported(request, family, recording, command):
    model = request.getfixturevalue(family)
    arguments = [command, str(model), *([recording] if command == "transcribe" else [])]
    program = WATCHED.format(heavy=HEAVY)

    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr.strip()) == (0, ""), done.stderr
    # Weights of no training may find no words.
    assert done.stdout.strip() or command == "speakers" or family == "conformer"


def test_words_come_by_the_runtime_that_is_asked_for(whisper, conformer, recording, capsys):
    said = {}
    for runtime in ("onnx", "torch", "auto"):
        assert main(["transcribe", str(whisper), recording, "--runtime", runtime, "--format", "json"]) == 0
        said[runtime] = json.loads(capsys.readouterr().out)["segments"][0]["score"]

    assert said["auto"] == said["onnx"]
    for model in (whisper, conformer):
        assert isinstance(open_hearing(model), RuntimeModel)
        assert isinstance(open_hearing(model, runtime="torch"), PersonalModel)
    with pytest.raises(PqmError, match="runtime 'tpu': use auto, onnx, torch"):
        open_hearing(whisper, runtime="tpu")


def test_a_processor_or_installation_that_cannot_is_said_in_a_line(whisper, monkeypatch, caplog):
    caplog.set_level("INFO")
    for patched, why in (("_flags", "this processor has no AVX2"), ("find_spec", "onnxruntime is not installed")):
        with monkeypatch.context() as patch:
            if patched == "_flags":
                patch.setattr(processor, "_flags", lambda: frozenset({"sse2"}))
                patch.setattr(processor.platform, "machine", lambda: "x86_64")
            else:
                patch.setattr(processor.importlib.util, "find_spec", lambda name: None)
            assert isinstance(open_hearing(whisper), PersonalModel)
            assert f"torch computes {whisper}: {why}" in caplog.text
            with pytest.raises(PqmError, match=why):
                open_hearing(whisper, runtime="onnx")


@pytest.mark.parametrize(
    ("file", "name", "value", "why"),
    [
        ("config.json", "activation_function", "relu", "activation_function relu"),
        ("generation_config.json", "repetition_penalty", 1.5, "generation with repetition_penalty 1.5"),
        ("preprocessor_config.json", "hop_length", 80, "features with hop_length 80"),
    ],
)
def test_what_the_graphs_cannot_do_is_left_to_torch_and_said(whisper, caplog, file, name, value, why):
    caplog.set_level("INFO")
    path = whisper / file
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))

    with pytest.raises(PqmError, match=f"no graphs for {why}"):
        open_hearing(whisper, runtime="onnx")
    assert isinstance(open_hearing(whisper), PersonalModel)
    assert f"no graphs for {why}" in caplog.text


@pytest.mark.parametrize(("name", "value"), [("d_model", 32), ("vocab_size", 300), ("encoder_layers", 2)])
def test_a_configuration_that_does_not_fit_its_weights_is_one_line(whisper, name, value):
    path = whisper / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))

    with pytest.raises(PqmError, match=r"model.safetensors|config.json|generation_config.json") as caught:
        open_hearing(whisper, runtime="onnx")
    assert "\n" not in str(caught.value)


def test_graphs_of_a_pack_are_not_read(whisper, recording, capsys):
    for name in ("encoder.onnx", "decoder.onnx", "model.onnx"):
        (whisper / name).write_bytes(b"\x08\x09not a graph")

    assert main(["transcribe", str(whisper), recording]) == 0
    assert capsys.readouterr().out.strip()


def test_damaged_weights_are_said_before_anything_is_computed(whisper, recording, capsys):
    path = whisper / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0" * 2)

    assert main(["transcribe", str(whisper), recording]) == 1
    assert "is damaged (sha256" in capsys.readouterr().err
