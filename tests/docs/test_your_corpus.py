"""What the page for newcomers says is run as it stands there, on a tiny corpus and a tiny model."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/your_corpus.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, flags=re.M | re.S)
BASE = "/path/to/espnet/exp/asr_train_conformer"
# The page's settings allow 1 % of a base for the adapter, and of the tiny one that is less than a rank of 1.
CONFIG = """
lora: {rank: 1, alpha: 4, max_fraction: 0.05}
pretrain: {epochs: 1, learning_rate: 0.01, criterion: loss}
adapt: {epochs: 1, learning_rate: 0.01, criterion: loss}
decode: {beam_size: 2, ctc_weight: 0.5, max_length_ratio: 0.3}
"""
WORDS = ["open the window", "close the door", "go on", "stop now", "who is it"]


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with the recordings of the page's two speakers and of two more, a table and a Kaldi folder of them."""
    lines, rows = ["path\ttext\tspeaker"], []
    for place, speaker in enumerate(("anna", "ben", "carl", "dora")):
        folder = tmp_path / "recordings" / speaker
        folder.mkdir(parents=True)
        for number, text in enumerate(WORDS, start=1):
            samples = np.random.default_rng(10 * place + number).integers(-3000, 3000, 16000, dtype=np.int16)
            soundfile.write(folder / f"{number:03d}.wav", samples, 16000)
            (folder / f"{number:03d}.txt").write_text(text)
            lines.append(f"recordings/{speaker}/{number:03d}.wav\t{text}\t{speaker}")
            rows.append((f"{speaker}-{number:03d}", f"{folder / f'{number:03d}.wav'}", text, speaker))
    (tmp_path / "recordings.tsv").write_text("\n".join(lines))
    (tmp_path / "kaldi").mkdir()
    for place, name in enumerate(("wav.scp", "text", "utt2spk"), start=1):
        (tmp_path / "kaldi" / name).write_text("".join(f"{row[0]} {row[place]}\n" for row in rows))
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    return tmp_path


def shell(block: str, desk: Path, base: Path | str = BASE) -> str:
    """Run a block of the page in `desk` and return what it says."""
    block = block.replace(BASE, str(base))
    # Without the baselines, which tests/docs/test_site.py decodes: ESPnet takes ten seconds to start.
    systems = "--systems 'full nf4 nf4+sat nf4+speaker nf4+other' --inference_nj 1"
    options = f"--python {sys.executable} --pqm_config tiny.yaml {systems}"
    block = block.replace("egs/own/run.sh", f"{ROOT}/egs/own/run.sh {options}")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block], cwd=desk, capture_output=True, text=True, env=os.environ, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_page_has_blocks_to_run_and_names_only_what_is_there():
    assert [language for language, _ in BLOCKS].count("bash") == 3
    for path in re.findall(r"`(egs/[\w./]+)`|\]\(\.\./([\w./]+)\)", PAGE):
        assert (ROOT / (path[0] or path[1])).exists(), path
    known = subprocess.run(
        [sys.executable, "-m", "pqm_plugin", "data", "--help"], capture_output=True, text=True, cwd=ROOT, check=True
    ).stdout
    shells = {"--stage", "--stop_stage"}
    assert all(option in known for option in set(re.findall(r"--\w+", PAGE)) - shells)


@pytest.mark.slow
def test_the_page_leads_from_a_folder_to_a_table(desk, tiny_conformer):
    said = [shell(block, desk, tiny_conformer) for language, block in BLOCKS if language == "bash"]

    assert "every second speaker is a target (ben dora)" in said[0]
    assert "utterance\tspeaker\tset\twhy" in said[0]
    assert "split test: 2 speakers, 4 utterances" in said[1]
    page = said[2]
    assert "| `nf4+speaker` |" in page and "| `nf4+other` |" in page and "| anna | 2 |" in page
    assert "Overlap: of 4 test utterances 0 (0.0 % of the words)" in page


@pytest.mark.slow
def test_the_three_forms_of_the_page_give_the_same_partition(desk):
    [first, *_] = [block for language, block in BLOCKS if language == "bash"]
    partitions = []
    for corpus in ("recordings", "recordings.tsv", "kaldi"):
        shell(first.replace("--corpus recordings", f"--corpus {corpus}"), desk)
        partitions.append((desk / "mine/data/partition.tsv").read_bytes())
        shutil.rmtree(desk / "mine")

    assert partitions[0].count(b"\n") == 21
    assert partitions[0] == partitions[1] == partitions[2]


def test_the_pages_table_is_one_that_can_be_read(tmp_path):
    from pqm_plugin.corpus.readers.own import read

    [table] = [block for _, block in BLOCKS if block.startswith("path\t")]
    (tmp_path / "recordings.tsv").write_text(table)

    assert [each.problem for each in read(tmp_path / "recordings.tsv", "own")] == ["", ""]
