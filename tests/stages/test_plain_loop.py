"""The plain loop that benchmarks time stage 5 against computes what stage 5 computes."""

import pytest
from safetensors.torch import load_file

from benchmarks._adapt_plain import plain
from pqm_plugin.adapters.files import WEIGHTS, read_info

CLOSE = 1e-3
"""How far weights may be apart after four steps of Adam by 0.01, where gradients may be nearly nothing."""


@pytest.mark.slow
def test_without_dropout_it_ends_in_the_adapters_of_stage_5(recipe, run, tmp_path):
    settings = recipe.pqm_config.read_text().replace("rank: 1,", "rank: 1, dropout: 0.0,")
    recipe.pqm_config.write_text(settings.replace("adapt: {epochs: 2,", "adapt: {epochs: 4, criterion: loss,"))
    run("data", "base", "quantize", "pretrain", "adapt")
    speakers = ("10", "20")

    _, accuracy = plain(recipe, speakers, 1, tmp_path / "plain")

    for speaker in speakers:
        folder, start = recipe.packed_dir / "speakers" / speaker, load_file(recipe.packed_dir / "sat" / WEIGHTS)
        ours, theirs = (load_file(path / WEIGHTS) for path in (folder, tmp_path / "plain" / speaker))
        info = read_info(folder)
        assert info.best_epoch == read_info(tmp_path / "plain" / speaker).best_epoch > 0
        assert accuracy[speaker] == info.log[info.best_epoch]["dev_accuracy"]
        assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < CLOSE
        assert max(float((ours[name] - start[name]).abs().max()) for name in ours) > 10 * CLOSE
