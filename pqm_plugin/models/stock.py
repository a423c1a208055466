"""Run a stock tool in a process of its own."""

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from pqm_plugin.errors import PqmError
from pqm_plugin.processes import die_with_parent, peak_rss_of


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
