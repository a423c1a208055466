"""Every training configuration that a recipe ships is one that its family takes."""

from pathlib import Path

import pytest

from pqm_plugin.models.families import family_named

ROOT = Path(__file__).resolve().parents[2]
WHISPER = "train_whisper.yaml"
OF_ESPNET = sorted(path for path in ROOT.glob("egs/*/conf/train_*.yaml") if path.name != WHISPER)


@pytest.mark.parametrize("path", OF_ESPNET, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_shipped_configuration_of_espnet_names_an_encoder_that_espnet_has(path):
    from espnet2.tasks.asr import ASRTask

    arguments = ASRTask.get_parser().parse_args(
        ["--config", str(path), "--output_dir", "unused", "--token_list", "unused"]
    )

    assert arguments.encoder


@pytest.mark.parametrize("path", ROOT.glob(f"egs/*/conf/{WHISPER}"), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_shipped_configuration_of_whisper_is_read(path):
    assert family_named("whisper").training_sample_rate(path) == 16000
