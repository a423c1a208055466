"""Stage 5 with several speakers a batch: what one speaker a batch gives, and the same bits after a kill."""

import dataclasses
import shutil

import pytest
import torch
from safetensors.torch import load_file

from pqm_plugin.__main__ import main
from pqm_plugin.adapters.files import INFO, WEIGHTS, read_info
from pqm_plugin.errors import PqmError
from pqm_plugin.stages import adapt
from pqm_plugin.stages.adapt import adapt_speakers, dealt, groups_of, speech_of
from pqm_plugin.stages.common.material import Material
from pqm_plugin.stages.common.systems import AdapterSet
from tests.conftest import write_corpus
from tests.stages.conftest import WORDS, one_family
from tests.stages.test_kill import kill_when, start

SPEAKERS = (10, 20, 21, 22, 23)
CLOSE = 5e-4
"""How far weights may be from those of training alone: 2 steps of Adam by 0.01 where gradients are nearly nothing."""


@pytest.fixture(scope="module")
def wide_corpus(finished, tmp_path_factory):
    """A corpus of five target speakers, which all tests share; of the last there is least to learn from."""
    texts = {f"{s}-1-{i:04d}": WORDS[(i + s) % 6] for s in SPEAKERS for i in range(6 + 3 * (s != 23))}
    sat = {f"{s}-1-{i:04d}": WORDS[(i + s) % 6] for s in (30, 31, 32) for i in range(3)}
    corpus = write_corpus(tmp_path_factory.mktemp("wide") / "corpus", {"dev": texts, "sat": sat}, n_samples=8000)
    finished.corpora.append(corpus)
    return corpus


@pytest.fixture
def wide(recipe, wide_corpus):
    """The tiny recipe with five target speakers and no dropout."""
    recipe.pqm_config.write_text(recipe.pqm_config.read_text().replace("rank: 1,", "rank: 1, dropout: 0.0,"))
    return dataclasses.replace(recipe, corpus=wide_corpus, systems=("nf4+speaker",), speakers_per_batch=2)


def adapters(recipe):
    folder = recipe.packed_dir / "speakers"
    return {path.parent.name: load_file(path) for path in sorted(folder.glob(f"*/{WEIGHTS}"))}


def written(recipe):
    folder = recipe.packed_dir / "speakers"
    files = [path for name in (WEIGHTS, INFO, "train.tsv") for path in folder.glob(f"*/{name}")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def furthest(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.slow
def test_adapters_are_those_of_one_speaker_a_batch_and_their_requests_tell(wide, run, tmp_path, caplog):
    alone = dataclasses.replace(wide, speakers_per_batch=1, expdir=tmp_path / "alone")
    run("data", "base", "quantize", "pretrain", of=wide)
    shutil.copytree(wide.expdir, alone.expdir)

    run("adapt", of=wide)
    run("adapt", of=alone)

    assert set(adapters(wide)) == {str(speaker) for speaker in SPEAKERS}
    for speaker, weights in adapters(wide).items():
        assert furthest(weights, adapters(alone)[speaker]) < CLOSE
        info, other = (read_info(of.packed_dir / "speakers" / speaker) for of in (wide, alone))
        assert info.request == {**other.request, "speakers_per_batch": 2}
        assert (info.best_epoch, info.parameters) == (other.best_epoch, other.parameters)
    assert not list((wide.packed_dir / "speakers").glob(".*.train"))
    caplog.clear()
    run("adapt", of=wide)
    assert "0 speakers to adapt, 5 done already" in caplog.text
    run("adapt", of=dataclasses.replace(alone, speakers_per_batch=3, speakers=("10", "20")))
    assert "made with other settings (speakers_per_batch): training it again" in caplog.text


@pytest.mark.slow
def test_an_adapter_that_is_lost_is_made_again_with_the_same_bits_and_the_others_stay(wide, run):
    run("data", "base", "quantize", "pretrain", "adapt", of=wide)
    before, times = written(wide), changed(wide)
    shutil.rmtree(wide.packed_dir / "speakers" / "21")

    run("adapt", of=wide)

    assert written(wide) == before
    assert {name for name, time_ns in changed(wide).items() if time_ns != times[name]} == {"21"}


def changed(recipe):
    return {path.parent.name: path.stat().st_mtime_ns for path in (recipe.packed_dir / "speakers").glob(f"*/{WEIGHTS}")}


@pytest.mark.slow
@one_family
def test_killed_and_run_again_it_gives_what_an_uninterrupted_run_gives(wide, run, tmp_path):
    yaml = wide.pqm_config.read_text().replace("dropout: 0.0", "dropout: 0.3")
    wide.pqm_config.write_text(yaml.replace("adapt: {epochs: 2", "adapt: {epochs: 12"))
    run("data", "base", "quantize", "pretrain", of=wide)
    cut = dataclasses.replace(wide, expdir=tmp_path / "cut")
    shutil.copytree(wide.expdir, cut.expdir)
    run("adapt", of=wide)

    # While the first two learn, and as soon as one of them is written.
    kill_when("adapt", cut, "speakers/.*.train")
    kill_when("adapt", cut, f"speakers/*/{WEIGHTS}")
    assert start("adapt", cut).wait() == 0

    assert written(cut) == written(wide)
    assert len(written(wide)) == 3 * len(SPEAKERS)


@pytest.mark.slow
def test_without_transcripts_those_with_nothing_to_learn_keep_their_start(wide, run, monkeypatch, tmp_path):
    run("data", "base", "quantize", "pretrain", of=wide)

    def heard(material, adapter_set, speaker):
        found = speech_of(material, AdapterSet("nf4"), speaker)
        return dataclasses.replace(found, train=[], dev=[]) if speaker == "20" else found

    monkeypatch.setattr(adapt, "speech_of", heard)
    adapt_speakers(wide, AdapterSet("nf4", 1), [["10", "20"]], tmp_path / "done")

    sat = load_file(wide.packed_dir / "sat" / WEIGHTS)
    kept, learned = (load_file(wide.packed_dir / "speakers-unsup" / name / WEIGHTS) for name in ("20", "10"))
    assert all(torch.equal(kept[name], sat[name]) for name in sat)
    assert any(not torch.equal(learned[name], sat[name]) for name in sat)


@pytest.mark.slow
def test_other_settings_of_training_do_to_each_of_several_speakers_what_they_do_to_one(wide, run, tmp_path):
    more = "adapt: {criterion: loss, lora_plus: 2.0, top_layers: 1, "
    run("data", "base", "quantize", "pretrain", of=wide)
    wide.pqm_config.write_text(wide.pqm_config.read_text().replace("adapt: {", more))
    wide = dataclasses.replace(wide)  # the configuration of a recipe is read once
    alone = dataclasses.replace(wide, speakers_per_batch=1, expdir=tmp_path / "alone")
    shutil.copytree(wide.expdir, alone.expdir)

    run("adapt", of=wide)
    run("adapt", of=alone)

    sat = load_file(wide.packed_dir / "sat" / WEIGHTS)
    assert set(adapters(wide)) == {str(speaker) for speaker in SPEAKERS}
    for speaker, weights in adapters(wide).items():
        assert furthest(weights, adapters(alone)[speaker]) < CLOSE
        if read_info(wide.packed_dir / "speakers" / speaker).best_epoch:
            assert furthest(weights, sat) > 10 * CLOSE


@pytest.mark.slow
@one_family
def test_settings_that_draw_at_random_draw_the_same_again_for_several_speakers_a_batch(wide, run, tmp_path):
    more = "adapt: {criterion: loss, joined_s: 1.5, spec_augment: true, network_dropout: true, "
    run("data", "base", "quantize", "pretrain", of=wide)
    again = dataclasses.replace(wide, expdir=tmp_path / "again")
    plain = dataclasses.replace(wide, expdir=tmp_path / "plain")
    for other in (again, plain):
        shutil.copytree(wide.expdir, other.expdir)
    run("adapt", of=plain)
    wide.pqm_config.write_text(wide.pqm_config.read_text().replace("adapt: {", more))

    run("adapt", of=dataclasses.replace(wide))
    run("adapt", of=dataclasses.replace(again))

    assert written(again) == written(wide)
    for speaker, weights in adapters(wide).items():
        assert furthest(weights, adapters(plain)[speaker]) > CLOSE, "the settings had no effect"


def test_speakers_of_as_much_work_are_in_one_group_whoever_is_done(wide, run):
    run("data", "base", of=wide)
    material, adapter_set = Material(wide), AdapterSet("nf4")

    whole = groups_of(material, adapter_set, ["10", "20", "21", "22", "23"])
    rest = groups_of(material, adapter_set, ["21", "23"])

    assert sorted(sum(whole, [])) == ["10", "20", "21", "22", "23"]
    assert [len(group) for group in whole] == [2, 2, 1]
    assert "23" in whole[-1] + whole[-2]
    assert rest == [group for group in whole if "21" in group or "23" in group]
    assert groups_of(material, adapter_set, []) == []
    assert groups_of(material, AdapterSet("full", control="copy"), ["10", "20"]) == [["10"], ["20"]]


def test_a_job_has_whole_groups_and_no_more_speakers_than_it_may(wide, run):
    run("data", "base", of=wide)

    def jobs(**fields):
        recipe = dataclasses.replace(wide, **fields)
        found = groups_of(Material(recipe), AdapterSet("nf4"), ["10", "20", "21", "22", "23"])
        return [sorted(map(len, job)) for job in dealt(Material(recipe), found)]

    assert jobs(nj=1) == [[1, 2, 2]]
    assert sorted(jobs(nj=2)) == [[1, 2], [2]] or sorted(jobs(nj=2)) == [[1], [2, 2]]
    assert sorted(jobs(nj=1, speakers_per_job=3)) == [[1], [2], [2]]


def test_a_number_that_means_nothing_is_refused(wide, run, capsys):
    run("data", "base", of=wide)

    for wrong in (0, 101):
        recipe = dataclasses.replace(wide, speakers_per_batch=wrong)
        with pytest.raises(PqmError, match=rf"--speakers_per_batch {wrong}: use at least 1, and at most .*\(100\)"):
            groups_of(Material(recipe), AdapterSet("nf4"), ["10"])
    assert main(["adapt", "--speakers_per_batch", "0"]) == 1
    assert "speakers_per_batch start at 1" in capsys.readouterr().err
