"""A real reader on the real Conformer: quantise, enrol from a few clips, hear."""

from pathlib import Path

import pytest

import pqm_plugin
from pqm_plugin.adapters.files import read_info
from pqm_plugin.metrics.wer import counts_of, total
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.personal.making import quantize
from pqm_plugin.personal.options import EnrollOptions

pytestmark = [pytest.mark.slow, pytest.mark.real]


def read(chapter: Path) -> list[tuple[Path, str]]:
    """The recordings of a chapter and what is said in them, in lower case as the model writes."""
    [listing] = chapter.glob("*.trans.txt")
    lines = (line.partition(" ") for line in listing.read_text().splitlines())
    return [(chapter / f"{name}.flac", text.lower()) for name, _, text in lines]


def test_a_reader_is_enrolled_from_eight_recordings_and_heard(shared, tmp_path):
    meta = quantize(str(shared / "models/conformer_small"), tmp_path / "model")
    model = pqm_plugin.load(tmp_path / "model", search=SearchOptions(beam_size=1, ctc_weight=1.0))
    chapter = sorted((shared / "data/LibriSpeech/dev-clean/84").iterdir())[0]
    clips = read(chapter)

    model.enroll("84", *zip(*clips[:8], strict=True), options=EnrollOptions(epochs=2))

    assert meta["ratio"] > 7
    info = read_info(tmp_path / "model/speakers/84")
    assert 0 < info.parameters / info.base_parameters < 0.01
    assert info.log[-1]["dev_loss"] < info.log[0]["dev_loss"]
    heard = [model.transcribe(path, speaker="84") for path, _ in clips[8:12]]
    counted = total(counts_of([text for _, text in clips[8:12]], [each.text for each in heard]), "reader 84")
    assert counted.rate < 0.25
    assert all(0.5 < part.confidence <= 1 for each in heard for part in each.segments)
