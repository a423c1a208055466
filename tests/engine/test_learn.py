"""A recipe's speaker and a person's enrolment are trained by the same code, to the same bytes."""

import logging
from dataclasses import replace

import numpy as np
import pytest

import pqm_plugin
from pqm_plugin.adapters.files import read_info
from pqm_plugin.adapters.options import WEIGHTS
from pqm_plugin.corpus.text import AUTO, fit_text
from pqm_plugin.engine.data import Clip, examples_of
from pqm_plugin.engine.learn import (
    TrainingData,
    TrainingSetup,
    attach_adapter,
    learn,
    learn_together,
    scratch_file,
    sweep_scratch,
)
from pqm_plugin.engine.packing import open_packed
from pqm_plugin.errors import PqmError
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.personal.making import quantize
from pqm_plugin.personal.options import EnrollOptions

TEXTS = ["GO ON", "STOP NOW", "WHO IS IT", "A CAT"]
OPTIONS = EnrollOptions(rank=1, epochs=2, learning_rate=0.01)


@pytest.fixture(params=["tiny_conformer", "tiny_whisper"])
def folder(request, tmp_path):
    """Return a packed tiny model, one of each family."""
    quantize(str(request.getfixturevalue(request.param)), tmp_path / "model")
    return tmp_path / "model"


def clips():
    noise = np.random.default_rng(0)
    return [Clip(f"clip {i}", noise.normal(0, 0.1, 16000).astype(np.float32), text) for i, text in enumerate(TEXTS)]


def ready(folder):
    recognizer = open_packed(folder, SearchOptions())
    pairs = examples_of(recognizer, clips(), fit_text(TEXTS, recognizer.facts.symbols, AUTO))
    examples = [example for _, example in pairs]
    model = attach_adapter(recognizer, "", None, OPTIONS.lora(), OPTIONS.seed)
    setup = TrainingSetup(recognizer, model, OPTIONS.training(len(TEXTS)), OPTIONS.seed, max_fraction=1.0)
    return setup, examples


def data_of(examples, out, request):
    return TrainingData(examples[:3], examples[3:], request, out, out.name, "speak up")


def test_enrolment_is_the_engine_with_a_person_s_recordings(folder, tmp_path):
    enrolled = pqm_plugin.load(folder).enroll("ada", [clip.samples for clip in clips()], TEXTS, options=OPTIONS)
    setup, examples = ready(folder)

    kept = learn(setup, data_of(examples, tmp_path / "eva", {"base_sha256": "", "start_sha256": ""}))

    assert (tmp_path / "eva" / WEIGHTS).read_bytes() == (enrolled.folder / WEIGHTS).read_bytes()
    assert kept == enrolled.best_epoch == read_info(tmp_path / "eva").best_epoch
    assert not list(tmp_path.glob(".eva*"))


@pytest.mark.slow
def test_speakers_who_learn_together_are_each_written_and_those_that_are_done_stay(folder, tmp_path):
    setup, examples = ready(folder)
    names = ("ada", "bob")
    data = [data_of(examples, tmp_path / name, {"base_sha256": "", "start_sha256": "", "who": name}) for name in names]

    learn_together(setup, data, "both")
    before = {name: (tmp_path / name / WEIGHTS).stat().st_mtime_ns for name in names}
    learn_together(setup, [data[0], replace(data[1], request=data[1].request | {"who": "eve"})], "again")

    after = {name: (tmp_path / name / WEIGHTS).stat().st_mtime_ns for name in names}
    assert before["ada"] == after["ada"] and before["bob"] != after["bob"]


def test_an_adapter_larger_than_allowed_and_one_that_gains_nothing_are_refused(folder, tmp_path):
    setup, examples = ready(folder)
    data = data_of(examples, tmp_path / "ada", {"base_sha256": "", "start_sha256": ""})

    with pytest.raises(PqmError, match=r"allowed are up to 0\.00%: lower lora\.rank"):
        learn(replace(setup, max_fraction=1e-9), data)
    with pytest.raises(PqmError, match="3 recordings is no better than no adapter at all: speak up"):
        learn(replace(setup, options=replace(setup.options, learning_rate=1e-30)), data)
    assert not (tmp_path / "ada").exists()


def test_speech_that_cannot_be_trained_on_is_left_out_by_name_with_the_reason(folder, caplog):
    caplog.set_level(logging.WARNING)
    recognizer = open_packed(folder, SearchOptions())
    odd = [replace(clips()[0], name="blank", text=" "), replace(clips()[1], name="loud"), clips()[2]]

    found = examples_of(
        recognizer,
        odd,
        fit_text(TEXTS, recognizer.facts.symbols, AUTO),
        lambda samples: "too loud" if np.array_equal(samples, odd[1].samples) else "",
    )

    assert len(found) == 1
    assert "blank is left out: it has no text that can be spelled" in caplog.text
    assert "loud is left out: too loud" in caplog.text


def test_what_cut_off_runs_left_goes_whatever_their_settings_and_other_speakers_stay(tmp_path):
    kept = scratch_file(tmp_path / "bob", {"seed": 0}, "train")
    gone = [scratch_file(tmp_path / "ada", {"seed": seed}, end) for seed in (0, 1) for end in ("train", "heard")]
    for path in [kept, *gone]:
        path.write_text("")

    sweep_scratch(tmp_path, {"ada"})

    assert [path.name for path in tmp_path.iterdir()] == [kept.name]
