"""Word errors of the float model and of every mode on all that the recipe tests on.

`python benchmarks/words_by_mode.py` packs the real Conformer as modes.py does, each weight rounded to its nearest
level, decodes the test utterances of ten readers in batches by the recipe's own search, and writes words_by_mode.json
beside itself, or `--out`. By hand: modes.py, which is timed, counts the words of a few of them. Minutes.
"""

import os
import sys
import tempfile
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # what every process of a recipe has, see pqm_plugin/processes.py

from benchmarks.common import CONFIG, meta, parse, parser, readers_clips
from benchmarks.modes import word_errors
from benchmarks.openers import packed_folder
from benchmarks.same_words import for_test
from pqm_plugin.files import write_json
from pqm_plugin.processes import n_cores
from pqm_plugin.quantize.modes import MODES
from pqm_plugin.stages.config import load_config

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Decode, count and write."""
    options = parser(
        __doc__,
        HERE / "words_by_mode.json",
        readers=(10, 2, "readers"),
        utterances=(0, 2, "test utterances of each reader, 0 for all"),
    )
    wanted = parse(options)
    about = meta(0, n_cores(), wanted.device) | {"quick": wanted.quick}
    clips = readers_clips(wanted.speech, wanted.readers, partial(for_test, most=wanted.utterances))
    with tempfile.TemporaryDirectory(prefix="pqm_bench_") as scratch:
        packed = Path(scratch) / "packed"
        packed_folder(wanted.model, packed)
        folders = {"full": wanted.model, **dict.fromkeys(MODES, packed)}
        found = word_errors(folders, clips, load_config(CONFIG).decode, wanted.device)
    write_json(wanted.out, {"meta": about, "utterances": len(clips), "modes": found})
    print(f"written to {wanted.out}")


if __name__ == "__main__":
    main()
