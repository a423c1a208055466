"""The controls of a speaker's adapter: a whole copy of the model for each, and the LoRA of the base's own toolkit."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file, save_file

from pqm_plugin.adapters.files import WEIGHTS, read_info
from pqm_plugin.adapters.options import OWN_WEIGHTS
from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json
from pqm_plugin.models.families import family_of
from pqm_plugin.models.options import SearchOptions

pytestmark = pytest.mark.slow
BEFORE = ("data", "base", "quantize", "pretrain", "adapt")
AFTER = ("decode", "score", "report")


@pytest.fixture
def copies(recipe):
    """Return the recipe of the full-precision base with an adapter and with a copy a speaker."""
    recipe.pqm_config.write_text(recipe.pqm_config.read_text() + "copy: {epochs: 2, learning_rate: 0.001}\n")
    return dataclasses.replace(recipe, systems=("full", "full+sat", "full+copy"))


@pytest.fixture
def toolkit(recipe, tiny_base):
    """Return the recipe with the LoRA of the base's own toolkit, where it has one."""
    if not family_of(tiny_base).TOOLKIT_LORA:
        pytest.skip("this family's toolkit has no LoRA")
    return dataclasses.replace(recipe, systems=("full", "full+espnet-lora"))


def base_of(recipe):
    return family_of(recipe.base_dir).load_float(recipe.base_dir, SearchOptions(), "cpu")


def test_a_copy_learns_in_every_weight_and_is_counted_as_a_whole_model(copies, run):
    run(*BEFORE, *AFTER, of=copies)

    folders = [copies.adapter_dir("full") / "copies" / speaker for speaker in ("10", "20")]
    one, other = (load_file(folder / OWN_WEIGHTS) for folder in folders)
    base = base_of(copies)
    learn = {name for name, _ in base.network.named_parameters()} - base.built_in
    state = base.network.state_dict()
    assert any(not torch.equal(one[name], other[name]) for name in learn)
    learned = next(found for found, folder in zip((one, other), folders, strict=True) if read_info(folder).best_epoch)
    assert all(not torch.equal(learned[name], state[name]) for name in learn & learned.keys() if state[name].dim() > 1)
    assert all(torch.equal(one[name], state[name]) for name in one.keys() - learn)
    systems = read_json(copies.packed_dir / "results.json")["systems"]
    size_bytes = max((folder / OWN_WEIGHTS).stat().st_size for folder in folders)
    assert (systems["full+copy"]["model_bytes"], systems["full+copy"]["adapter_bytes"]) == (0, size_bytes)
    assert systems["full+copy"]["adapter_fraction"] == pytest.approx(1, abs=0.2)
    assert size_bytes > 4 * sum(state[name].numel() for name in learn)
    assert "a whole model for each" in (copies.packed_dir / "RESULTS.md").read_text()


def test_a_copy_that_learned_nothing_says_what_the_speaker_independent_adapter_says(copies, run):
    copies.pqm_config.write_text(copies.pqm_config.read_text().replace("learning_rate: 0.001", "learning_rate: 0.0"))

    run(*BEFORE, "decode", of=copies)

    info = read_info(copies.adapter_dir("full") / "copies" / "10")
    sat, copy = (copies.decode_dir(key, "dev") / "text" for key in ("full+sat", "full+copy"))
    assert info.best_epoch == 0
    assert info.request["start_sha256"]
    assert copy.read_text() == sat.read_text()


def test_copies_are_made_and_decoded_once(copies, run, caplog):
    run(*BEFORE, "decode", of=copies)
    weights = copies.adapter_dir("full") / "copies" / "20" / OWN_WEIGHTS
    made = weights.stat().st_mtime_ns
    caplog.clear()

    run("adapt", "decode", of=copies)

    assert weights.stat().st_mtime_ns == made
    assert "0 speakers to adapt, 2 done already" in caplog.text
    assert "0 decoding jobs" in caplog.text
    copies.pqm_config.write_text(copies.pqm_config.read_text().replace("copy: {epochs: 2", "copy: {epochs: 1"))
    # The configuration of a recipe is read once.
    run("adapt", of=dataclasses.replace(copies))
    assert "2 speakers to adapt, 0 done already" in caplog.text
    assert not list(weights.parents[1].glob(".*.train"))


def test_the_toolkits_own_lora_learns_alone_and_the_page_has_both_counts(toolkit, run):
    run(*BEFORE, *AFTER, of=toolkit)

    folder = toolkit.adapter_dir("full") / "espnet-lora" / "10"
    tensors, info = load_file(folder / OWN_WEIGHTS), read_info(folder)
    network = base_of(toolkit).network
    n_base = sum(parameter.numel() for parameter in network.parameters())
    n_lora = sum(tensor.numel() for tensor in tensors.values())
    assert all("lora_" in name for name in tensors)
    counts = read_json(toolkit.packed_dir / "results.json")["systems"]["full+espnet-lora"]["trainable"]
    assert counts == {"by_default": n_base + n_lora, "frozen": n_lora, "base": n_base}
    assert (info.parameters, info.base_parameters, info.request["start_sha256"]) == (n_lora, n_base, "")
    page = (toolkit.packed_dir / "RESULTS.md").read_text()
    assert f"{n_base + n_lora:,} parameters learn" in page
    assert f"{n_lora:,} learn" in page
    assert not (toolkit.adapter_dir("full") / "sat").exists()


def test_weights_that_do_not_fit_the_base_are_named(toolkit, run):
    run(*BEFORE, of=toolkit)
    weights = toolkit.adapter_dir("full") / "espnet-lora" / "20" / OWN_WEIGHTS
    tensors = load_file(weights)
    save_file({name: value[:1] for name, value in tensors.items()}, weights)

    with pytest.raises(PqmError, match="does not fit this base"):
        run("decode", of=toolkit)


def test_a_family_without_a_lora_of_its_own_says_so_before_anything_is_trained(recipe, run, tiny_base):
    if family_of(tiny_base).TOOLKIT_LORA:
        pytest.skip("this family's toolkit has a LoRA")
    without = dataclasses.replace(recipe, systems=("full+sat", "full+espnet-lora"))
    run("data", "base", "quantize", of=without)

    with pytest.raises(PqmError, match=rf"full\+espnet-lora: {family_of(tiny_base).NAME} models have no such LoRA"):
        run("pretrain", of=without)

    assert not (without.adapter_dir("full") / "sat" / WEIGHTS).exists()
