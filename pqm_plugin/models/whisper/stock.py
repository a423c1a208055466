"""transformers' own generation, untouched: the baselines that every number is compared with."""

import json
import shlex
import sys
from pathlib import Path

from pqm_plugin.errors import PqmError
from pqm_plugin.models.interface import StockDecode
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.models.stock import run_stock
from pqm_plugin.models.whisper import folder as whisper_folder

BASELINES = {
    "stock": "transformers' own generate, float32",
    "int8": "transformers' own generate on torch's dynamic int8",
}
PROGRESS = b"decoded utterance"
_WORKER = Path(__file__).with_name("stock_worker.py")


def decode_stock(key: str, folder: Path, wav_scp: Path, out: Path, search: SearchOptions, log: Path) -> StockDecode:
    """Run a program that knows transformers alone on `wav_scp`, and read what it wrote under `out`.

    Raises:
        PqmError: with the last line of the log, if it failed or if int8 quantised no layer.
    """
    # By its path, and without its folder among the places where modules are looked for.
    command = [sys.executable, "-P", str(_WORKER), "--model", str(folder), "--wav_scp", str(wav_scp), "--out", str(out)]
    command += ["--num_beams", str(search.beam_size), "--language", search.language]
    command += ["--int8"] if key == "int8" else []
    peak_rss_bytes = run_stock(command, log)
    lines = (out / "hypotheses.jsonl").read_text(encoding="utf-8").splitlines()
    rows = {row["utterance"]: row for row in map(json.loads, lines)}
    wanted = [line.split(maxsplit=1)[0] for line in wav_scp.read_text(encoding="utf-8").splitlines()]
    if lost := sorted(set(wanted) - rows.keys()):
        raise PqmError(f"{log}: stock decoding gave no words for {', '.join(lost[:3])}")
    if key == "int8":
        model_bytes = int(json.loads((out / "int8.json").read_text(encoding="utf-8"))["model_bytes"])
    else:
        model_bytes = whisper_folder.weights_file(folder).stat().st_size
    words = {name: " ".join(rows[name]["text"].split()) for name in wanted}
    seconds = {name: float(rows[name]["decode_s"]) for name in wanted}
    return StockDecode(words, seconds, peak_rss_bytes, model_bytes, shlex.join(command))
