"""Libraries are imported late, without work that nothing here uses, and are left as they were."""

import json
import logging
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
import typeguard

from pqm_plugin import processes
from pqm_plugin.imports import on_demand, quick_imports
from pqm_plugin.processes import start_log
from pqm_plugin.stages.common.jobs import preloaded
from pqm_plugin.stages.recipe import Recipe


def test_decorators_leave_functions_alone_within_and_are_themselves_again_after():
    before = typeguard.typechecked, torch.compile, torch.compiler.disable

    def made(size: int) -> int:
        return size

    with pytest.raises(KeyError), quick_imports():
        assert typeguard.typechecked(made) is torch.compile(made) is torch.compiler.disable(made) is made
        assert torch.compile(dynamic=False)(made) is made
        raise KeyError

    assert (typeguard.typechecked, torch.compile, torch.compiler.disable) == before


@pytest.mark.parametrize("known", [True, False])
def test_a_hidden_library_cannot_be_imported_within_and_is_as_before_after(monkeypatch, known):
    import wave

    if not known:
        monkeypatch.delitem(sys.modules, "wave")

    with quick_imports(["wave"]), pytest.raises(ImportError):
        __import__("wave")

    assert ("wave" in sys.modules) == known
    assert not known or sys.modules["wave"] is wave


def test_a_name_is_imported_when_it_is_asked_for(monkeypatch):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)

    asked = on_demand({"rgb_to_hsv": "colorsys"})

    assert "colorsys" not in sys.modules
    assert asked("rgb_to_hsv")(0, 0, 0) == (0.0, 0.0, 0)
    with pytest.raises(AttributeError, match="hsv_to_rgb"):
        asked("hsv_to_rgb")


LIBRARIES = {"espnet2", "transformers", "peft"}
# Each case in a child of a process that has imported what all of them do.
CASES = """
import json, os, sys
from pqm_plugin.imports import import_now
cases, libraries = json.loads(sys.argv[1])
import_now(set.intersection(*map(set, cases)))
for names in cases:
    if not os.fork():
        import_now(names)
        compiler = "torch._inductor.compile_fx" in sys.modules
        print(json.dumps([sorted({*libraries} & sys.modules.keys()), compiler]), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.slow
def test_workers_have_the_libraries_of_their_stage_and_model_and_no_compiler(tmp_path):
    expected = {
        ("decode", "config.yaml"): {"espnet2"},
        ("decode", "config.json"): {"transformers"},
        ("adapt", "config.yaml"): LIBRARIES,
        ("adapt", "config.json"): {"transformers", "peft"},
        ("adapt", ""): LIBRARIES,
    }
    cases = []
    for place, (stage, config) in enumerate(expected):
        recipe = Recipe(base="some", expdir=tmp_path / str(place))
        recipe.base_dir.mkdir(parents=True)
        if config:
            (recipe.base_dir / config).write_text('{"model_type": "whisper"}' if config.endswith("json") else "")
        cases.append(preloaded(stage, recipe))
    given = json.dumps([cases, sorted(LIBRARIES)])

    # Libraries say on standard error what they lack, on some processors.
    found = subprocess.run([sys.executable, "-c", CASES, given], capture_output=True, text=True, check=True)

    assert [json.loads(line) for line in found.stdout.splitlines()] == [
        [sorted(libraries), False] for libraries in expected.values()
    ]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["tiny_conformer", "tiny_whisper"])
def test_libraries_say_nothing_to_who_quantizes_enrols_and_transcribes(family, request, tmp_path):
    folder, packed, sound = request.getfixturevalue(family), tmp_path / "packed", tmp_path / "a.wav"
    soundfile.write(sound, np.random.default_rng(0).normal(size=24000) * 0.1, 16000)
    sound.with_suffix(".txt").write_text("HELLO")
    # In Python, where nobody has set up a log: what libraries warn of goes to standard error.
    program = (
        "import pqm_plugin; from pqm_plugin.personal.making import quantize; from pathlib import Path\n"
        f"quantize({str(folder)!r}, Path({str(packed)!r})); model = pqm_plugin.load({str(packed)!r})\n"
        f"model.transcribe({str(sound)!r}); model.enroll('ada', [{str(sound)!r}], ['HELLO']); model.info()\n"
    )

    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert [line for line in found.stderr.splitlines() if line.strip() and " done in " not in line] == []


def test_what_libraries_print_otherwise_at_their_import_is_told(capsys):
    with quick_imports():
        print("Failed to import Flash Attention, using ESPnet default: none", file=sys.stderr)
        print("a line", "and what has no end", sep="\n", end="", file=sys.stderr)

    assert capsys.readouterr().err == "a line\nand what has no end"


def test_the_log_has_this_package_alone_though_a_folder_above_libraries_has_its_name(capsys):
    kept = logging.getLogger().handlers[:]
    try:
        start_log()
        places = {"/x/pqm_plugin/.venv/lib/some.py": "theirs", processes.__file__: "ours"}
        for place, text in places.items():
            record = logging.LogRecord("root", logging.WARNING, place, 1, text, None, None)
            logging.getLogger().handle(record)
        said = capsys.readouterr().err
    finally:
        logging.getLogger().handlers[:] = kept

    assert "ours" in said
    assert "theirs" not in said
