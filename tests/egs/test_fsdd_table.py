"""The table that egs/own needs for the Free Spoken Digit Dataset."""

import subprocess
import sys
from pathlib import Path

from pqm_plugin.corpus.partition import paper_split

TOOL = Path(__file__).resolve().parents[2] / "egs/own/local/fsdd_table.py"


def test_every_digit_comes_into_each_part_of_a_speaker(tmp_path: Path) -> None:
    (tmp_path / "recordings").mkdir()
    for digit in range(10):
        for index in range(10):
            (tmp_path / f"recordings/{digit}_theo_{index}.wav").touch()
    (tmp_path / "recordings/notes.wav").touch()

    done = subprocess.run(
        [sys.executable, TOOL, "recordings", "out/fsdd.tsv"], cwd=tmp_path, capture_output=True, text=True, check=True
    )

    header, *lines = (tmp_path / "out/fsdd.tsv").read_text().splitlines()
    assert header == "path\ttext\tspeaker\tutterance"
    assert lines[0] == "../recordings/0_theo_0.wav\tzero\ttheo\ttheo-00-0"
    assert "notes.wav: is not named" in done.stderr
    texts = {line.split("\t")[3]: line.split("\t")[1] for line in lines}
    for names in paper_split(texts).values():
        assert len({texts[name] for name in names}) == 10
