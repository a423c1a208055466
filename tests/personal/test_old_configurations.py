"""ESPnet models of earlier versions, whose configurations lack keys that later ones write."""

import shutil

import numpy as np
import pytest
import yaml
from espnet2.tasks.asr import ASRTask

from pqm_plugin.errors import PqmError
from pqm_plugin.models.espnet.folder import DEFAULTS
from pqm_plugin.models.families import family_of
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.personal.facts import problems
from pqm_plugin.personal.making import quantize
from pqm_plugin.personal.model import PersonalModel

NOISE = np.random.default_rng(0).normal(size=16000).astype("float32") * 0.1
# What a model cannot be built without, or would be another.
NEEDED = {"decoder", "decoder_conf", "encoder", "encoder_conf", "frontend_conf", "token_list", "token_type"}


@pytest.fixture
def changed(tiny_conformer, tmp_path):
    """Return a function that writes the tiny model with other keys in its configuration."""

    def write(name, without=(), **further):
        folder = shutil.copytree(tiny_conformer, tmp_path / name)
        config = yaml.safe_load((folder / "config.yaml").read_text())
        kept = {key: value for key, value in config.items() if key not in without} | further
        (folder / "config.yaml").write_text(yaml.safe_dump(kept))
        return folder

    return write


def words(folder, out):
    quantize(str(folder), out)
    assert problems(out) == []
    found = PersonalModel(out).transcribe(NOISE)
    return found.text, found.segments[0].score


def test_the_defaults_are_those_of_espnet():
    theirs = ASRTask.get_default_config()

    plain = {key: value for key, value in DEFAULTS.items() if not key.endswith("_conf")}
    assert plain == {key: theirs[key] for key in plain}


@pytest.mark.slow
def test_a_model_that_lacks_a_key_is_the_same_model_or_refused_when_it_is_quantized(tiny_conformer, changed, tmp_path):
    expected = words(tiny_conformer, tmp_path / "whole")

    for key in sorted({*DEFAULTS, *NEEDED, "init_param"}):
        folder = changed(f"no_{key}", [key])
        if key in NEEDED:
            with pytest.raises(PqmError, match=r"(config\.yaml|configuration)"):
                quantize(str(folder), tmp_path / f"packed_{key}")
        else:
            assert words(folder, tmp_path / f"packed_{key}") == expected, key


@pytest.mark.slow
def test_no_other_key_of_a_configuration_is_needed(tiny_conformer, changed):
    config = yaml.safe_load((tiny_conformer / "config.yaml").read_text())
    others = [key for key in config if key not in {*DEFAULTS, *NEEDED}]

    folder = changed("bare", others)

    assert len(others) > 100
    whole, bare = (family_of(one).load_float(one, SearchOptions(), "cpu") for one in (tiny_conformer, folder))
    assert [found.score for found in bare.recognize([NOISE])] == [found.score for found in whole.recognize([NOISE])]


@pytest.mark.parametrize(
    "start", [{"pretrain_path": None}, {"pretrain_path": ["a.pth"]}, {"init_param": ["/x/a.pth:::"]}]
)
def test_what_training_started_from_is_not_asked_for(tiny_conformer, changed, tmp_path, start):
    folder = changed("started", ["init_param"], **start)

    assert words(folder, tmp_path / "packed") == words(tiny_conformer, tmp_path / "whole")


def test_an_empty_section_is_as_one_that_is_missing(tiny_conformer, changed, tmp_path):
    folder = changed("empty", ctc_conf=None, specaug_conf=None, normalize_conf=None)

    assert words(folder, tmp_path / "packed") == words(tiny_conformer, tmp_path / "whole")


def test_a_configuration_that_is_no_mapping_is_one_line(tiny_conformer, tmp_path):
    folder = shutil.copytree(tiny_conformer, tmp_path / "list")
    (folder / "config.yaml").write_text("- a\n- b\n")

    with pytest.raises(PqmError, match="not a configuration of an ESPnet ASR model"):
        quantize(str(folder), tmp_path / "packed")
