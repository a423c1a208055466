"""The stand-in for TED-LIUM 3, made of real speech, and the recipe on it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pqm_plugin.corpus.audio import load_audio
from pqm_plugin.corpus.headers import ending
from pqm_plugin.corpus.readers import librispeech, tedlium3
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.files import read_json

ROOT = Path(__file__).resolve().parents[2]
SMALL = """quantize: {keep: [depthwise_conv, ctc]}
pretrain: {epochs: 1}
adapt: {epochs: 1}
decode: {beam_size: 2}
"""


def make(shared: Path, out: Path, *options: str) -> Path:
    subprocess.run(
        [sys.executable, ROOT / "egs/tedlium3/local/make_standin.py", shared / "data/LibriSpeech", out, *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return out


@pytest.fixture(scope="module")
def corpus(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two talks of a minute and a half, one for dev, two to teach."""
    return make(shared, tmp_path_factory.mktemp("ted"), "--talks", "2", "--sat_talks", "2", "--seconds", "90")


@pytest.mark.real
def test_every_oddity_of_the_real_corpus_is_in_the_transcripts(corpus: Path) -> None:
    text = "".join(path.read_text() for path in sorted(corpus.rglob("*.stm")))

    for oddity in ("ignore_time_segment_in_scoring", "inter_segment_gap", "<unk>", " 's ", "(2)", "{NOISE}", "<sil>"):
        assert oddity in text
    assert tedlium3.available_sets(corpus) == [
        f"{layout}{part}" for layout in tedlium3.LAYOUTS for part in ("", "-dev", "-test", "-train")
    ]


@pytest.mark.real
def test_a_segment_is_the_very_utterance_it_was_made_of(corpus: Path, shared: Path) -> None:
    segments = list(tedlium3.read(corpus, "speaker-adaptation-test"))
    origin = {each.text.lower(): each for each in librispeech.read(shared / "data/LibriSpeech", "dev-clean")}

    assert {each.speaker for each in segments} == {"Reader1272", "Reader1462"}
    for segment in segments:
        heard, spoken = (load_audio(each, 16000) for each in (segment, origin[segment.text]))
        # Times have two decimals, as in the real files: up to 80 samples of silence more or less.
        assert abs(len(heard) - len(spoken)) <= 160
        n = len(spoken) - 600
        assert min(abs(heard[k : k + n] - spoken[200 : 200 + n]).max() for k in range(119, 282)) < 1e-4
    with Path(segments[0].audio).open("rb") as file:
        assert file.read(7) == b"NIST_1A"
        file.seek(0)
        assert ending(file).missing == 0


@pytest.mark.real
def test_genuine_sphere_files_are_read_by_time(shared: Path) -> None:
    path = next((shared / "data/an4_sample/wav").rglob("*.sph"))
    whole = load_audio(Utterance("u", "s", "X", str(path)), 16000)

    part = load_audio(Utterance("u-1", "s", "X", str(path), 0.5, 1.0, "u"), 16000)

    assert (part == whole[8000:16000]).all() and abs(part).max() > 0.01


@pytest.mark.real
def test_every_genuine_sphere_file_has_the_samples_that_its_header_counts(shared: Path) -> None:
    paths = sorted((shared / "data/an4_sample/wav").rglob("*.sph"))

    lengths = [len(load_audio(Utterance("u", "s", "X", str(path)), 16000)) for path in paths]

    headers = [path.read_bytes()[:1024].decode("ascii") for path in paths]
    assert lengths == [int(re.search(r"^sample_count -i (\d+)", header, re.M)[1]) for header in headers]
    assert len(lengths) == 8


@pytest.mark.real
@pytest.mark.slow
def test_the_recipe_runs_from_talks_to_a_report(corpus: Path, shared: Path, tmp_path: Path) -> None:
    (tmp_path / "pqm.yaml").write_text(SMALL)
    folders = ["--datadir", tmp_path / "data", "--expdir", tmp_path / "exp", "--report", tmp_path / "report"]
    base = shared / "models/conformer_small"

    subprocess.run(
        [
            *(ROOT / "egs/tedlium3/run.sh", "--corpus", corpus, "--base", base, "--pqm_config", tmp_path / "pqm.yaml"),
            *(*folders, "--python", sys.executable, "--systems", "espnet full nf4+sat nf4+speaker"),
        ],
        check=True,
        capture_output=True,
    )

    systems = read_json(tmp_path / "report/results.json")["systems"]
    assert list(systems) == ["espnet", "full", "nf4+sat", "nf4+speaker"]
    assert systems["espnet"]["errors"] == systems["full"]["errors"]
    assert sorted(systems["nf4+speaker"]["speakers"]) == ["Reader1272", "Reader1462"]
    assert (tmp_path / "report/RESULTS.md").is_file()
