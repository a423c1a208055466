"""docs/serve.md: its commands are run against a server of a tiny model, and what it says of options is so."""

import os
import shlex
import shutil
import subprocess
import sys

import pytest
import soundfile

from pqm_plugin.commands.__main__ import _parser
from pqm_plugin.files import write_json
from pqm_plugin.personal.making import quantize
from tests.docs.pages import _BLOCK, DOCS, ROOT
from tests.page.serving import serving
from tests.personal.conftest import TEXTS, noise

PAGE = (DOCS / "serve.md").read_text(encoding="utf-8")
SETTINGS = {"enroll": {"rank": 1, "epochs": 2, "few_epochs": 2, "learning_rate": 0.05}}


def test_defaults_are_those_of_the_program_and_its_commands_are_understood():
    parsed = _parser().parse_args(["serve", "my_model"])

    assert f"| `--max_queue` | {parsed.max_queue} |" in PAGE
    assert f"| `--max_upload`, `--max_minutes` | {parsed.max_upload:g}, {parsed.max_minutes:g} |" in PAGE
    shown = [block for language, block in _BLOCK.findall(PAGE) if language == "console"]
    assert len(shown) == 2
    for block in shown:
        assert _parser().parse_args(shlex.split(block)[1:]).command == "serve"


@pytest.mark.slow
def test_both_set_ups_work_as_they_stand_there(tiny_conformer, tmp_path):
    for package in ("gradio", "openai", "wyoming"):
        pytest.importorskip(package)
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    import pqm_plugin
    from pqm_plugin.personal.options import EnrollOptions

    served = tmp_path / "served"
    served.mkdir()
    quantize(str(tiny_conformer), served / "my_model")
    model = pqm_plugin.load(served / "my_model")
    clips = [noise(seed) for seed in range(6)]
    model.enroll("ada", clips, TEXTS, options=EnrollOptions(rank=1, epochs=2, learning_rate=0.05))
    write_json(served / "my_model/about.json", dict(model.folder.about()) | SETTINGS)
    for name, seed in (("recording", 9), ("001", 1), ("002", 2)):
        soundfile.write(tmp_path / f"{name}.wav", noise(seed), 16000)
    expected = model.transcribe(tmp_path / "recording.wav", "ada").text

    said = []
    with serving(served, "--api", "--wyoming", "tcp://127.0.0.1:0", model="my_model") as found:
        environment = os.environ | {"URL": found.url.rstrip("/"), "WYOMING": found.others[-1].rpartition(" ")[2]}
        for language, block in _BLOCK.findall(PAGE):
            if language in ("bash", "python"):
                program = ["bash", "-euo", "pipefail", "-c"] if language == "bash" else [sys.executable, "-c"]
                done = subprocess.run(
                    [*program, block], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
                )
                assert done.returncode == 0, block + done.stdout + done.stderr
                said.append(done.stdout)

    asked, from_python, enrolled, from_wyoming = said
    assert expected and from_python.rstrip("\n") == from_wyoming.rstrip("\n") == expected
    assert '"parent":"my_model"' in asked and "transcript.text.done" in asked and " --> " in asked
    assert "speaker.done" in enrolled and '"deleted":true' in enrolled
    assert not (ROOT / "recording.wav").exists()
