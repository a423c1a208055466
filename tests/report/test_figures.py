"""Figures are drawn, the same every time, on white paper."""

import sys

import pytest

from pqm_plugin.errors import PqmError
from pqm_plugin.report.figures import bytes_figure, speakers_figure


@pytest.mark.parametrize("draw", [speakers_figure, bytes_figure])
def test_a_figure_has_the_same_bytes_every_time(draw, results, tmp_path):
    for name in ("one.svg", "two.svg"):
        draw(results, tmp_path / name, "Invented numbers.")

    first = (tmp_path / "one.svg").read_bytes()
    assert first == (tmp_path / "two.svg").read_bytes()
    assert b"fill: #ffffff" in first
    assert b"<dc:date>" not in first


def test_one_speaker_and_one_system_are_enough(results, tmp_path):
    results["systems"] = {"nf4": results["systems"]["nf4"]}
    del results["systems"]["nf4"]["speakers"]["bob"]

    speakers_figure(results, tmp_path / "speakers.svg", "")
    bytes_figure(results, tmp_path / "bytes.svg", "")

    assert (tmp_path / "speakers.svg").is_file()
    assert (tmp_path / "bytes.svg").is_file()


def test_systems_without_errors_can_be_drawn(results, tmp_path):
    for entry in results["systems"].values():
        entry.update(wer=0.0, wer_ci95=[0.0, 0.0])
        for one in entry["speakers"].values():
            one["wer"] = 0.0

    speakers_figure(results, tmp_path / "speakers.svg", "")
    bytes_figure(results, tmp_path / "bytes.svg", "")

    assert (tmp_path / "bytes.svg").is_file()


@pytest.mark.parametrize("draw", [speakers_figure, bytes_figure])
def test_without_matplotlib_the_extra_to_install_is_named(draw, results, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    with pytest.raises(PqmError, match=r"pqm_plugin\[report\]"):
        draw(results, tmp_path / "figure.svg", "")

    assert not (tmp_path / "figure.svg").exists()
