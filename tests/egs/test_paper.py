"""Both recipes of the paper's experiments, whole: its readers and talks, utterance for utterance, and a tiny model."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pqm_plugin.corpus.partition import find_listing
from pqm_plugin.files import read_json
from tests.paper import write_librispeech, write_tedlium

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
lora: {rank: 1, alpha: 4, max_fraction: 0.05}
pretrain: {epochs: 1, learning_rate: 0.01}
adapt: {epochs: 1, learning_rate: 0.01}
decode: {beam_size: 1, ctc_weight: 0.5}
"""
SYSTEMS = ["nf4", "nf4+speaker"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "write", "n_speakers", "n_test"),
    [
        ("librispeech", lambda root: write_librispeech(root / "LibriSpeech", 8000), 10, 632),
        ("tedlium3", lambda root: write_tedlium(root, 0.5, lambda place: "on"), 16, 1031),
    ],
)
def test_the_recipe_runs_whole_on_the_papers_partition(
    name: str, write: Callable[[Path], Path], n_speakers: int, n_test: int, tiny_conformer: Path, tmp_path: Path
) -> None:
    (tmp_path / "pqm.yaml").write_text(CONFIG)
    folders = ["--datadir", tmp_path / "data", "--expdir", tmp_path / "exp", "--report", tmp_path / "report"]
    given = ["--corpus", write(tmp_path), "--base", tiny_conformer, "--pqm_config", tmp_path / "pqm.yaml"]

    subprocess.run(
        [
            *(ROOT / f"egs/{name}/run.sh", "--partition", "paper", *given, *folders),
            *("--systems", " ".join(SYSTEMS), "--python", sys.executable),
        ],
        check=True,
        capture_output=True,
    )

    systems = read_json(tmp_path / "report/results.json")["systems"]
    tests = {group: len(splits["test"]) for group, splits in find_listing("paper", name).groups.items()}
    assert list(systems) == SYSTEMS
    for system in systems.values():
        assert system["utterances"] == n_test
        assert {speaker: row["utterances"] for speaker, row in system["speakers"].items()} == {
            group.partition("_")[0]: count for group, count in tests.items()
        }
    assert len(tests) == n_speakers
    assert (tmp_path / "report/RESULTS.md").is_file()
