"""Run a stock decoder in its own process: any command, or the program that knows only transformers."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pqm_plugin.errors import PqmError
from pqm_plugin.models.interface import StockDecode
from pqm_plugin.processes import die_with_parent, peak_rss_of

PROGRESS = b"decoded utterance"
"""What the program of `decode_by_transformers` says once an utterance."""
_WORKER = Path(__file__).with_name("stock_worker.py")


def run_stock(command: Sequence[str], log: Path) -> int:
    """Run `command` on one thread, all that it says going to `log`; return its peak resident memory in bytes.

    Raises:
        PqmError: with the last line of the log, if it failed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    peak_rss_bytes = 0
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment, preexec_fn=die_with_parent
        )
        while process.poll() is None:
            # Not `ru_maxrss`: that counts the process which started this one, too.
            peak_rss_bytes = max(peak_rss_bytes, peak_rss_of(process.pid))
            time.sleep(0.2)
    if process.returncode != 0:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no output"]
        raise PqmError(f"stock decoding failed ({lines[-1]}): see {log}")
    return peak_rss_bytes


def decode_by_transformers(
    key: str, folder: Path, weights: Path, wav_scp: Path, out: Path, arguments: Sequence[str], log: Path
) -> StockDecode:
    """Run `stock_worker.py`, which knows transformers alone, on `wav_scp`, and read what it wrote under `out`.

    Args:
        key: `int8` for linear layers in torch's dynamic int8, else float32.
        arguments: of the program, beside those that every family gives.

    Raises:
        PqmError: with the last line of the log, if it failed or if int8 quantised no layer.
    """
    # By its path, and without its folder among the places where modules are looked for.
    command = [sys.executable, "-P", str(_WORKER), "--model", str(folder), "--wav_scp", str(wav_scp), "--out", str(out)]
    command += [*arguments, *(["--int8"] if key == "int8" else [])]
    peak_rss_bytes = run_stock(command, log)
    lines = (out / "hypotheses.jsonl").read_text(encoding="utf-8").splitlines()
    rows = {row["utterance"]: row for row in map(json.loads, lines)}
    wanted = [line.split(maxsplit=1)[0] for line in wav_scp.read_text(encoding="utf-8").splitlines()]
    if lost := sorted(set(wanted) - rows.keys()):
        raise PqmError(f"{log}: stock decoding gave no words for {', '.join(lost[:3])}")
    if key == "int8":
        model_bytes = int(json.loads((out / "int8.json").read_text(encoding="utf-8"))["model_bytes"])
    else:
        model_bytes = weights.stat().st_size
    words = {name: " ".join(rows[name]["text"].split()) for name in wanted}
    seconds = {name: float(rows[name]["decode_s"]) for name in wanted}
    return StockDecode(words, seconds, peak_rss_bytes, model_bytes, shlex.join(command))
