"""docs/cluster.md says what the stored measurement says."""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_quotes_the_stored_measurement():
    measured = json.loads((ROOT / "benchmarks/speakers.json").read_text())
    page = (ROOT / "docs/cluster.md").read_text()

    for backend in ("local", "slurm"):
        rates = measured["rates"][backend]
        one, two = rates["median"]["1"], rates["median"]["2"]
        assert f"| `--cmd_backend {backend}` | {one} | {two} | {rates['ratio_2_to_1']} |" in page
    overhead = measured["overhead"]
    for key in ("stage_5", "nothing_to_do", "nothing_to_do_without_index"):
        assert f"{overhead[key + '_ms_a_speaker']} ms" in " ".join(page.split())
