"""README leads from the demo to a transcription with an adapter of one's own; .ci/run does it on the real demo."""

import dataclasses
import re
import shlex
import shutil
from pathlib import Path

import pytest

from pqm_plugin.adapters.files import read_info
from pqm_plugin.adapters.options import WEIGHTS
from pqm_plugin.commands.__main__ import _parser
from pqm_plugin.files import sha256
from pqm_plugin.stages import run_stage
from tests.docs.newcomer import MODEL, follow, record
from tests.docs.pages import ROOT, commands
from tests.personal.conftest import TEXTS, noise
from tests.stages.conftest import tiny_recipe


def test_every_command_of_the_path_is_understood_and_what_the_demo_makes_is_named_as_its_recipe_names_it():
    [block] = commands("../README.md")
    recipe = (ROOT / "egs/demo/run.sh").read_text()

    for line in re.findall(r"^pqm (.*)$", block, flags=re.M):
        _parser().parse_args(shlex.split(line))

    assert f"model=egs/demo/{MODEL}\n" in block
    assert "conf/train_${family}.yaml" in recipe and "family=espnet_aed" in recipe
    assert "--target_set unheard" in recipe and "egs/demo/data/unheard/text" in block


@pytest.mark.slow
def test_the_path_leads_from_a_recipes_folder_to_the_words_of_a_file_with_an_adapter_that_began_as_sat(
    tiny_conformer, tmp_path
):
    demo = tmp_path / "egs/demo"
    demo.mkdir(parents=True)
    base = shutil.copytree(tiny_conformer, tmp_path / "asr_train_espnet_aed")
    recipe = dataclasses.replace(tiny_recipe(demo, Path(base)), target_set="unheard")
    (demo / "corpus/dev").rename(demo / "corpus/unheard")
    for stage in ("data", "base", "quantize", "pretrain"):
        run_stage(stage, recipe)
    record(tmp_path, TEXTS, lambda sentences: [noise(place) for place, _ in enumerate(sentences)], 16000)

    said = follow(tmp_path)

    assert "adapter    sat: " in said
    assert "GO ON\n" in said, "sentences to read"
    assert f"me: learned from {len(TEXTS) - 1} recordings" in said
    learned = read_info(demo / MODEL / "speakers/me")
    assert learned.request["start_sha256"] == sha256(demo / MODEL / "sat" / WEIGHTS)
