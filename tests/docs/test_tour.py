"""The notebook runs as it stands, on a real base and a real voice, and brings what it promises."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs/tour.ipynb"


def outputs(notebook: nbformat.NotebookNode) -> str:
    """All that the cells printed."""
    return "".join(
        output.get("text", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.get("name") == "stdout"
    )


def test_the_notebook_is_stored_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)

    assert not outputs(notebook)
    assert all(cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.slow
@pytest.mark.real
def test_the_tour_leads_from_a_float_model_to_a_pack_that_knows_a_voice(shared, tmp_path, monkeypatch):
    monkeypatch.setenv("PQM_TOUR_BASE", str(shared / "models/conformer_small"))
    monkeypatch.setenv("PQM_TOUR_SPEECH", str(shared / "data/LibriSpeech"))
    monkeypatch.setenv("PQM_TOUR_SET", "dev-clean")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)

    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()

    said = outputs(notebook)
    assert "7.07 times smaller" in said, said
    assert said.count("heard  ") == 6
    assert "MB for model and voice" in said
    rates = [float(line.split("%")[0].split()[-1]) for line in said.splitlines() if "% WER" in line]
    assert len(rates) == 2 and all(0 < rate < 40 for rate in rates)
